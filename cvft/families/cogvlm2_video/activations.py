"""What autograd keeps of one token in one block, read off `model/modeling.py`, `model/vision.py` and peft's `Linear`.

The rules: a frozen linear layer keeps nothing, its weight is there anyway; an adapter keeps its input and the output of A; a
product keeps its factors that need a gradient or multiply one that does; the fused attention keeps query, key, value,
output and the logarithm of each softmax's sum. `tests/test_families_memory.py` compares the sums with a real forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence

from cvft.families.cogvlm2_video.architecture import Architecture
from cvft.families.cogvlm2_video.tensors import QKV
from cvft.families.costs import FP32_BYTES, Precision


def norm_bytes(width: int) -> int:
    """Returns bytes per token that an RMS norm keeps: its input in fp32 and the reciprocal of its root mean square."""
    return (width + 1) * FP32_BYTES


def language_layer_bytes(
    architecture: Architecture, *, precision: Precision, adapted: Sequence[str], rank: int, has_mask: bool
) -> int:
    """Counts what one decoder block keeps of one token.

    Args:
        architecture: The model's sizes.
        precision: Precisions of activations.
        adapted: Linear layers with an adapter.
        rank: Rank of each.
        has_mask: Whether attention gets a mask; then keys and values are repeated for every query head, because the kernel
            that takes a mask knows no groups.

    Returns:
        Bytes.
    """
    width, value_bytes = architecture.hidden_size, precision.dtype_bytes
    norms = 2 * norm_bytes(width)
    # value is a view of the fused projection, which therefore stays whole
    unrepeated = architecture.key_value_width + architecture.language_linears[QKV].num_out
    keys_and_values = 2 * width if has_mask else unrepeated
    query_and_output = 2 * width
    rotary = architecture.head_dim  # cosines and sines, one table per block
    attention = (query_and_output + keys_and_values + rotary) * value_bytes
    softmax_sums = architecture.num_attention_heads * FP32_BYTES
    # silu keeps the gate, the product keeps silu's result and the up projection
    gating = 3 * architecture.intermediate_size * value_bytes
    adapters = sum(
        precision.adapter_bytes(
            architecture.language_linears[name], rank=rank, shares_input=name == "up_proj" and "gate_proj" in adapted
        )
        for name in adapted
    )
    return norms + attention + softmax_sums + gating + adapters


def backward_bytes(architecture: Architecture, *, precision: Precision, adapted: Sequence[str]) -> int:
    """Counts the intermediates of one token at the worst moment of a block, the MLP, beyond what is kept.

    On the way back, two gradients of the MLP's inner width stand beside what is kept. Around them lie the residual stream and
    its gradient, and the copies of both that the norms made in fp32.

    Args:
        architecture: The model's sizes.
        precision: Precisions of activations.
        adapted: Linear layers with an adapter.

    Returns:
        Bytes.
    """
    value_bytes = precision.dtype_bytes
    inner = 2 * value_bytes
    residual = 2 * value_bytes if value_bytes == FP32_BYTES else 4 * value_bytes
    return architecture.intermediate_size * inner + architecture.hidden_size * residual


def tower_layer_bytes(architecture: Architecture, *, precision: Precision, rank: int) -> int:
    """Counts what one block of a trained tower keeps of one token.

    Args:
        architecture: The model's sizes.
        precision: Precisions of activations.
        rank: Rank of its adapters.

    Returns:
        Bytes.
    """
    vision, value_bytes = architecture.vision, precision.dtype_bytes
    width = vision.hidden_size
    fused_and_output = architecture.tower_linears["query_key_value"].num_out + width
    attention = fused_and_output * value_bytes + vision.num_heads * FP32_BYTES
    norms = 2 * (width + 2) * precision.norm_value_bytes  # input, mean and reciprocal deviation
    activation = vision.intermediate_size * value_bytes
    adapters = sum(
        precision.adapter_bytes(linear, rank=rank, shares_input=name == "dense")
        for name, linear in architecture.tower_linears.items()
    )
    return attention + norms + activation + adapters


def tower_working_bytes(architecture: Architecture, *, precision: Precision) -> int:
    """Counts what one token holds at the widest point of a tower that keeps nothing: the MLP's activation.

    Args:
        architecture: The model's sizes.
        precision: Precisions of activations.

    Returns:
        Bytes: residual stream, its cast, and the inner width before and after the activation.
    """
    vision = architecture.vision
    inner = 2 * vision.intermediate_size * precision.dtype_bytes
    return inner + vision.hidden_size * (precision.norm_value_bytes + precision.dtype_bytes)


def projector_bytes(
    architecture: Architecture, *, precision: Precision, rank: int, has_adapter: bool, is_whole: bool = False
) -> int:
    """Counts what a projector with a backward pass keeps of one pooled patch.

    Args:
        architecture: The model's sizes.
        precision: Precisions of activations.
        rank: Rank of its adapters.
        has_adapter: Whether it has adapters, or only passes gradients on to the tower.
        is_whole: Whether it is trained wholly: then each of its linear layers keeps its input.

    Returns:
        Bytes.
    """
    width, value_bytes = architecture.hidden_size, precision.dtype_bytes
    norm = (width + 2) * precision.norm_value_bytes
    activations = width * precision.norm_value_bytes + 3 * architecture.intermediate_size * value_bytes
    if is_whole:
        # two layers read one tensor; autocast makes a copy of it for each, since it comes from a norm in fp32
        num_copies = 2 if precision.is_autocast else 1
        kept = architecture.vision.hidden_size + num_copies * width + architecture.intermediate_size
        return norm + activations + kept * value_bytes
    if not has_adapter:
        return norm + activations
    adapters = sum(
        precision.adapter_bytes(linear, rank=rank, shares_input=name == "dense_h_to_4h")
        for name, linear in architecture.projector_linears.items()
    )
    return norm + activations + adapters
