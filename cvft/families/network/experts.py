"""Experts in any precision, registered with transformers under a name of their own.

The kernel that computes all experts at once has no fp64, in which a merge is compared with its adapter.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, grouped_mm_experts_forward

GROUPED_EXPERTS = "grouped_mm"
"""transformers' default, by its name there."""

ANY_EXPERTS = "cvft_experts"


def run_experts(module: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """Computes the chosen experts by transformers' kernel, or in fp64 by its loop over experts.

    Args:
        module: The experts of a block.
        hidden_states: (N, H).
        top_k_index: (N, K) chosen experts.
        top_k_weights: (N, K) what their outputs are multiplied by.

    Returns:
        (N, H).
    """
    forward: Any = grouped_mm_experts_forward
    if hidden_states.dtype is torch.float64:
        forward = type(module).forward.__wrapped__
    chosen: Tensor = forward(module, hidden_states, top_k_index, top_k_weights)
    return chosen


def run_experts_in_any_precision(model: Any) -> None:
    """Lets the experts of a model compute in fp64 too, where they are computed by the kernel; others stay as they are."""
    if model._can_set_experts_implementation() and model.get_experts_implementation()[""] == GROUPED_EXPERTS:
        model.set_experts_implementation(ANY_EXPERTS)


ALL_EXPERTS_FUNCTIONS.register(ANY_EXPERTS, run_experts)
