"""What autograd keeps of Qwen-VL's blocks, read off transformers' classes, peft's `Linear` and the attention of groups. No torch.

The rules: a frozen linear layer keeps nothing, its weight is there anyway; an adapter keeps its input and the output of A; a
product keeps its factors that need a gradient or multiply one that does; the fused attention keeps query, key, value,
output and the logarithm of each softmax's sum. `tests/test_qwen_costs.py` compares the sums with a real forward pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cvft.families.costs import FP32_BYTES, GroupShape, Linear, Precision
from cvft.families.qwen_vl.flops import DELTA_CHUNK
from cvft.families.qwen_vl.sizes import DeltaNetSizes, Sizes, TowerSizes

SHARED_INPUTS = (
    ("q_proj", "k_proj", "v_proj"),
    ("in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a"),
    ("gate_proj", "up_proj"),
)
"""Layers that read one tensor: the first with an adapter keeps it for all."""


def rms_norm_bytes(width: int, *, num_norms: int = 1) -> int:
    """Returns bytes per token that RMS norms keep: their input in fp32, and of each the reciprocal of its root mean square."""
    return (width + num_norms) * FP32_BYTES


def adapters_bytes(layers: Mapping[str, Linear], adapted: Sequence[str], *, precision: Precision, rank: int) -> int:
    """Counts what the adapters of one block keep of one token.

    Args:
        layers: Linear layers of the block by their last names.
        adapted: Last names of those with an adapter; some may lie in other blocks.
        precision: Precisions of activations.
        rank: Rank of each.
    """
    total = 0
    for name in adapted:
        if name in layers:
            sharing = next((group for group in SHARED_INPUTS if name in group), (name,))
            first = next(each for each in sharing if each in adapted)
            total += precision.adapter_bytes(layers[name], rank=rank, shares_input=name != first)
    return total


def mlp_bytes(sizes: Sizes, *, precision: Precision) -> int:
    """Counts what norms and MLP of any decoder block keep of one token: silu the gate, the product silu's result and the up
    projection.
    """
    return 2 * rms_norm_bytes(sizes.hidden_size) + 3 * sizes.intermediate_size * precision.dtype_bytes


def projections_bytes(sizes: Sizes, *, precision: Precision) -> int:
    """Counts what a block with full attention keeps of one token up to the kernel, and behind it where its output is gated.

    Query, key and value go into the kernel; norms before the rotary positions keep what came before them.
    """
    queries, keys = sizes.query_width, sizes.key_value_width
    total = (queries + 2 * keys) * precision.dtype_bytes
    if sizes.has_qk_norm:
        # in fp32 what the norm keeps is a view of the projection, half of which is the gate
        is_view = sizes.has_output_gate and precision.dtype_bytes == FP32_BYTES
        total += rms_norm_bytes(queries * (2 if is_view else 1), num_norms=sizes.num_heads)
        total += rms_norm_bytes(keys, num_norms=sizes.num_key_value_heads)
    if sizes.has_output_gate:
        total += 2 * queries * precision.dtype_bytes
    return total


def kernel_bytes(sizes: Sizes, group: GroupShape, *, dtype_bytes: int) -> int:
    """Counts what the attention of groups keeps of one sequence in one block, beyond query, key and value.

    A single question is one causal call. With several, all of them are one more call: each has its queries, and the keys and
    values of the prefix beside its own, repeated for every query head and padded to the longest question, under one mask that
    becomes an additive one.

    Args:
        sizes: The model's sizes.
        group: The sequence.
        dtype_bytes: Bytes of a value.
    """
    queries, sums = sizes.query_width * dtype_bytes, sizes.num_heads * FP32_BYTES
    if len(group.question_tokens) == 1:
        return group.num_tokens * (queries + sums)
    num, longest, prefix = len(group.question_tokens), max(group.question_tokens), group.num_prefix_tokens
    seen = prefix + longest
    stacked = num * longest * (2 * queries + sums) + num * seen * 2 * queries
    return prefix * (queries + sums) + stacked + longest * seen * dtype_bytes


def delta_net_bytes(
    sizes: DeltaNetSizes, *, precision: Precision, num_tokens: int, num_mixed: int, num_chunked: int
) -> int:
    """Counts what the gated delta rule of one block keeps, as transformers computes it without kernels of others.

    It computes in fp32; autocast makes copies in bf16 of what goes into products.

    Args:
        sizes: Its sizes.
        precision: Precisions of activations.
        num_tokens: Tokens that are computed.
        num_mixed: Tokens that go through the convolution, and those before them that it reaches back to, of both calls.
        num_chunked: Tokens that go through the rule, padded to whole chunks.
    """
    heads, keys, values = sizes.num_value_heads, sizes.key_head_dim, sizes.value_head_dim
    is_cast = precision.is_autocast
    of_chunk = (2 * FP32_BYTES + 3 * precision.dtype_bytes) if is_cast else 5 * FP32_BYTES
    of_keys = (4 * FP32_BYTES + 6 * precision.dtype_bytes) if is_cast else 6 * FP32_BYTES
    of_values = (2 * FP32_BYTES + 2 * precision.dtype_bytes) if is_cast else 3 * FP32_BYTES
    of_state = (FP32_BYTES + 2 * precision.dtype_bytes) if is_cast else FP32_BYTES
    gates = 4 * FP32_BYTES
    chunked = (
        of_chunk * DELTA_CHUNK + of_keys * keys + of_values * values + of_state * keys * values // DELTA_CHUNK + gates
    )
    # before the rule: query and key before their norms; behind it: the gated norm, whose gate passes through silu
    norm = 3 * FP32_BYTES + precision.dtype_bytes
    plain = norm * values + 6 * FP32_BYTES
    mixed = heads * 2 * FP32_BYTES * keys + 2 * sizes.qkv_width * precision.dtype_bytes
    return num_chunked * heads * chunked + num_mixed * mixed + num_tokens * heads * plain


def backward_bytes(sizes: Sizes, *, precision: Precision) -> int:
    """Counts the intermediates of one token at the worst moment of a block's MLP, beyond what is kept.

    On the way back, two gradients of the MLP's inner width stand beside what is kept. Around them lie the residual stream and
    its gradient, and the copies of both that the norms made in fp32.

    Args:
        sizes: The model's sizes.
        precision: Precisions of activations.
    """
    value_bytes = precision.dtype_bytes
    residual = 2 * value_bytes if value_bytes == FP32_BYTES else 4 * value_bytes
    return sizes.intermediate_size * 2 * value_bytes + sizes.hidden_size * residual


def tower_layer_bytes(tower: TowerSizes, layers: Mapping[str, Linear], *, precision: Precision, rank: int) -> int:
    """Counts what one block of a trained tower keeps of one patch.

    Args:
        tower: The tower's sizes.
        layers: Linear layers of a block by their last names; all have adapters.
        precision: Precisions of activations.
        rank: Rank of each.
    """
    width, value_bytes = tower.hidden_size, precision.dtype_bytes
    # the fused projection stays whole for its view of the values; query and key are rotated copies
    attention = (3 + 2 + 1) * width * value_bytes + tower.num_heads * FP32_BYTES
    norms = 2 * rms_norm_bytes(width) if tower.has_gated_mlp else 2 * (width + 2) * precision.norm_value_bytes
    activation = (3 if tower.has_gated_mlp else 1) * tower.intermediate_size * value_bytes
    return attention + norms + activation + adapters_bytes(layers, tuple(layers), precision=precision, rank=rank)


def tower_working_bytes(tower: TowerSizes, *, precision: Precision) -> int:
    """Counts what one patch holds at the widest point of a tower that keeps nothing.

    Either the MLP, or the rotary positions, which are computed in fp32.

    Args:
        tower: The tower's sizes.
        precision: Precisions of activations.

    Returns:
        Bytes, with the residual stream and its norm's result.
    """
    width, value_bytes = tower.hidden_size, precision.dtype_bytes
    mlp = (3 if tower.has_gated_mlp else 2) * tower.intermediate_size * value_bytes
    rotary = 3 * width * value_bytes + 5 * width * FP32_BYTES
    return max(mlp, rotary) + 2 * width * value_bytes


def merger_bytes(
    tower: TowerSizes,
    layers: Sequence[Linear],
    *,
    precision: Precision,
    rank: int,
    has_tower_gradient: bool,
    has_adapter: bool,
    is_whole: bool,
) -> int:
    """Counts what all mergers with a backward pass keep of one token.

    Args:
        tower: The tower's sizes.
        layers: Linear layers of all mergers.
        precision: Precisions of activations.
        rank: Rank of their adapters.
        has_tower_gradient: Whether gradients go on to the tower, through the norms.
        has_adapter: Whether they have adapters.
        is_whole: Whether they are trained wholly: then each layer keeps its input.

    Returns:
        Bytes.
    """
    merged, levels = tower.merged_size, tower.num_levels
    norm = 0
    if has_tower_gradient or is_whole:  # what a deep block's merger norms is kept by the next block
        norm = rms_norm_bytes(merged, num_norms=tower.patches_per_token)
        norm += merged * precision.dtype_bytes if is_whole and tower.has_gated_mlp else 0
        norm += 0 if has_tower_gradient else (levels - 1) * merged * precision.norm_value_bytes
    activation = levels * merged * precision.dtype_bytes
    kept = sum(linear.num_in for linear in layers) * precision.dtype_bytes if is_whole else 0
    adapters = sum(precision.adapter_bytes(linear, rank=rank) for linear in layers) if has_adapter else 0
    return norm + activation + kept + adapters
