"""The loss of a fine-tuning: logits and cross-entropy of the tokens that have a label, and of no others.

hidden_states (B, L, H), labels (B, L) -> rows with a label (N, H) -> logits (chunk, V) at a time -> sum of -log p

With a vocabulary of 128,256 and 1,600 vision tokens per clip, the logits of all tokens would be the largest tensor of a step.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from cvft.families.family import IGNORED_LABEL, LABEL_CHUNK_TOKENS
from cvft.families.runtime import LabelLoss


def at_least_fp32(dtype: torch.dtype) -> torch.dtype:
    """Returns the precision for sums and exponentials: fp32, or the model's own when that is wider."""
    return torch.promote_types(dtype, torch.float32)


def label_loss(
    hidden_states: Tensor, *, labels: Tensor, lm_head: nn.Module, chunk_tokens: int = LABEL_CHUNK_TOKENS
) -> LabelLoss:
    """Scores the label tokens.

    Args:
        hidden_states: (B, L, H) normed states of the last layer.
        labels: (B, L) token ids, -100 for none; the state before a label predicts it.
        lm_head: The output layer, (N, H) to (N, V).
        chunk_tokens: Label tokens scored at a time; more than so many are scored again in the backward pass.

    Returns:
        Sum over the label tokens, fp32 or wider, and how many are right; without any, both are 0 and the gradient is too.
    """
    labels = labels[:, 1:]
    has_label = labels != IGNORED_LABEL
    states, targets = hidden_states[:, :-1][has_label], labels[has_label]

    def score(states: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        logits = lm_head(states)
        logits = logits.to(at_least_fp32(logits.dtype))
        num_right = (logits.detach().argmax(-1) == targets).sum()
        return F.cross_entropy(logits, targets, reduction="sum"), num_right

    if len(states) <= chunk_tokens:
        return LabelLoss(*score(states, targets))
    parts = [
        checkpoint(
            score, states[start : start + chunk_tokens], targets[start : start + chunk_tokens], use_reentrant=False
        )
        for start in range(0, len(states), chunk_tokens)
    ]
    return LabelLoss(torch.stack([nll for nll, _ in parts]).sum(), torch.stack([right for _, right in parts]).sum())
