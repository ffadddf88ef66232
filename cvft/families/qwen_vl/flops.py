"""What a training step of Qwen-VL costs in arithmetic, by counting. A model, not a measurement.

`Sizes` + `Batch` -> `Flops` (by part)

Counted is what the hardware does, recomputation included; left out are norms, activations, rotary positions and the softmax, the
loss, AdamW, what DoRA computes beyond LoRA, and the frozen part of the first layer that needs no backward pass. Memory is in
`memory.py`.
Source of the accounting: `cvft.families.arithmetic`; of the gated delta rule, its chunked form (Yang et al., arXiv 2412.06464,
section 3.3) as transformers 5.19 computes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from cvft.families.arithmetic import (
    ATTENTION_BACKWARD_FLOPS,
    ATTENTION_FORWARD_FLOPS,
    FORWARD_FLOPS,
    INPUT_GRADIENT_FLOPS,
    WEIGHT_GRADIENT_FLOPS,
)
from cvft.families.costs import Batch, ClipShape, Flops, GroupShape, Training, causal_pairs
from cvft.families.parts import linears_of, target_regex
from cvft.families.qwen_vl.parts import PARTS
from cvft.families.qwen_vl.sizes import FULL_ATTENTION, DeltaNetSizes, Sizes, TowerSizes
from cvft.families.qwen_vl.tensors import loaded_shapes

DELTA_CHUNK = 64
"""Tokens that the gated delta rule takes at a time. Source: `torch_chunk_gated_delta_rule` of transformers; fla's are as long."""


def training_flops(sizes: Sizes, batch: Batch, training: Training) -> Flops:
    """Counts forward and backward pass of one micro-batch.

    Whether tower and mergers have a backward pass follows from the adapter. Recomputation covers the decoder blocks and, when it
    is trained, the tower's, but not the mergers. It ends where all that the backward pass needs is there (torch's early stop),
    so it leaves out a down projection without an adapter.

    Args:
        sizes: The model's sizes.
        batch: The micro-batch.
        training: How it is trained.

    Returns:
        FLOPs by part.
    """
    adapter, tokens = training.adapter, batch.num_tokens
    down = 0 if "down_proj" in training.adapted else sizes.hidden_size * sizes.intermediate_size * sizes.num_layers
    again = FORWARD_FLOPS * (decoder_weights(sizes) - down) if training.recompute else 0
    language = (FORWARD_FLOPS + INPUT_GRADIENT_FLOPS) * decoder_weights(sizes) + again
    times_again = 2 if training.recompute else 1
    attention = ATTENTION_FORWARD_FLOPS * times_again + ATTENTION_BACKWARD_FLOPS
    num_attending = sizes.layer_types.count(FULL_ATTENTION)
    pairs = sum(attended_pairs(group) for group in batch.groups)
    recurrent = 0
    if sizes.delta_net is not None:
        # a product's backward pass has two products of its size
        per_token = delta_rule_flops(sizes.delta_net) * (times_again + 2)
        recurrent = (sizes.num_layers - num_attending) * chunked_tokens(batch) * per_token
    num_scored = tokens if training.scores_all_tokens else batch.num_label_tokens
    clips = batch.clips if batch.num_tower_frames else []
    return Flops(
        tower=tower_flops(sizes.tower, clips, is_trained=adapter.tower > 0, recompute=training.recompute),
        projector=_merger_flops(sizes.tower, clips, training),
        language=language * tokens,
        attention=attention * sizes.query_width * num_attending * pairs + recurrent,
        output_layer=(FORWARD_FLOPS + INPUT_GRADIENT_FLOPS) * sizes.vocab_size * sizes.hidden_size * num_scored,
        adapter=_adapter_flops(sizes, tokens, clips, training),
    )


def build_flops(sizes: Sizes, clips: Sequence[ClipShape]) -> Flops:
    """Counts what it costs to encode clips once, mergers included: features are taken behind them.

    Args:
        sizes: The model's sizes.
        clips: The clips.

    Returns:
        FLOPs of tower and projector.
    """
    merged = FORWARD_FLOPS * merger_weights(sizes.tower) * sum(clip.num_tokens for clip in clips)
    return Flops(tower=tower_flops(sizes.tower, clips, is_trained=False, recompute=False), projector=merged)


def feature_bytes(sizes: Sizes, clips: Sequence[ClipShape], *, dtype_bytes: int) -> int:
    """Returns the bytes of cached features: for each token one vector of the decoder's width, and one per deep block.

    Args:
        sizes: The model's sizes.
        clips: The clips.
        dtype_bytes: Bytes of a value.

    Returns:
        Bytes, without the files' headers.
    """
    return sum(clip.num_tokens for clip in clips) * sizes.tower.num_levels * sizes.hidden_size * dtype_bytes


def attended_pairs(group: GroupShape) -> int:
    """Returns the (query, key) pairs that the attention of groups computes.

    The prefix is one causal call, and all questions are another: each padded to the longest, with every key of the prefix and of
    itself. A single question is one causal sequence with its prefix.
    """
    if len(group.question_tokens) == 1:
        return causal_pairs(group.num_tokens)
    longest = max(group.question_tokens)
    return causal_pairs(group.num_prefix_tokens) + len(group.question_tokens) * longest * (
        group.num_prefix_tokens + longest
    )


def delta_runs(batch: Batch) -> tuple[tuple[int, int], ...]:
    """Returns the calls of the gated delta rule in one block: how many sequences, and of how many tokens each.

    Where a clip has several questions, all prefixes are one call, with single questions behind theirs, and all other questions
    are another.
    """
    several = [group for group in batch.groups if len(group.question_tokens) > 1]
    if not several:
        return ((batch.num_sequences, batch.num_tokens // max(batch.num_sequences, 1)),)
    prefixes = [group.num_prefix_tokens if group in several else group.num_tokens for group in batch.groups]
    questions = [length for group in several for length in group.question_tokens]
    return (len(prefixes), max(prefixes)), (len(questions), max(questions))


def chunked_tokens(batch: Batch) -> int:
    """Returns the tokens that the gated delta rule computes: sequences are padded to whole chunks."""
    return sum(num * -(-length // DELTA_CHUNK) * DELTA_CHUNK for num, length in delta_runs(batch))


@lru_cache(maxsize=8)
def decoder_weights(sizes: Sizes) -> int:
    """Returns the weights of the linear layers of all decoder blocks; a token passes through each of them."""
    layers = linears_of(loaded_shapes(sizes), target_regex(PARTS[sizes.model_type], "all-linear"))
    return sum(linear.weights for linear in layers.values())


@lru_cache(maxsize=8)
def merger_weights(tower: TowerSizes) -> int:
    """Returns the weights of the linear layers of all mergers; a token passes through each of them."""
    return tower.num_levels * tower.merged_size * (tower.merged_size + tower.out_hidden_size)


def block_weights(tower: TowerSizes) -> int:
    """Returns the weights of the linear layers of one block of the tower, without biases."""
    width, inner = tower.hidden_size, tower.intermediate_size
    return 4 * width**2 + (3 if tower.has_gated_mlp else 2) * width * inner


def tower_flops(tower: TowerSizes, clips: Sequence[ClipShape], *, is_trained: bool, recompute: bool) -> int:
    """Counts the tower up to the mergers; a trained one has its gradients end at the first block, so patches are only embedded.

    Args:
        tower: Its sizes.
        clips: Clips that pass through.
        is_trained: Whether it has a backward pass.
        recompute: Whether its blocks are recomputed then.
    """
    again = recompute and is_trained
    linear = FORWARD_FLOPS + is_trained * INPUT_GRADIENT_FLOPS + again * FORWARD_FLOPS
    attention = ATTENTION_FORWARD_FLOPS + is_trained * ATTENTION_BACKWARD_FLOPS + again * ATTENTION_FORWARD_FLOPS
    total = 0
    for clip in clips:
        num_patches = clip.num_tokens * tower.patches_per_token
        total += linear * block_weights(tower) * tower.depth * num_patches
        total += FORWARD_FLOPS * tower.patch_values * tower.hidden_size * num_patches
        total += attention * tower.hidden_size * _tower_pairs(tower, clip)
    return total


def _tower_pairs(tower: TowerSizes, clip: ClipShape) -> int:
    """Returns the pairs of all blocks together: patches see their temporal grid, or windows of it, which are taken as whole."""
    num_patches = clip.num_tokens * tower.patches_per_token
    num_grids = -(-clip.num_frames // tower.temporal_patch_size)
    of_grids = num_patches * (num_patches // num_grids)
    if not tower.window_size:
        return tower.depth * of_grids
    window = (tower.window_size // tower.patch_size) ** 2
    num_full = len(tower.full_attention_layers)
    return num_full * of_grids + (tower.depth - num_full) * min(of_grids, num_patches * window)


def _merger_flops(tower: TowerSizes, clips: Sequence[ClipShape], training: Training) -> int:
    adapter = training.adapter
    has_backward = adapter.tower + adapter.projector + adapter.whole_projector > 0
    flops = FORWARD_FLOPS + (INPUT_GRADIENT_FLOPS if has_backward else 0)
    flops += WEIGHT_GRADIENT_FLOPS if adapter.whole_projector else 0
    return flops * merger_weights(tower) * sum(clip.num_tokens for clip in clips)


def _adapter_flops(sizes: Sizes, num_tokens: int, clips: Sequence[ClipShape], training: Training) -> int:
    adapter = training.adapter
    trained = FORWARD_FLOPS + INPUT_GRADIENT_FLOPS + WEIGHT_GRADIENT_FLOPS
    recomputed = trained + (FORWARD_FLOPS if training.recompute else 0)
    num_clip_tokens = sum(clip.num_tokens for clip in clips)
    on_tower = recomputed * adapter.tower * num_clip_tokens * sizes.tower.patches_per_token
    return recomputed * adapter.language * num_tokens + on_tower + trained * adapter.projector * num_clip_tokens


def delta_rule_flops(sizes: DeltaNetSizes) -> int:
    """Counts the gated delta rule and the convolution before it, forward, for one token of one block.

    Of a chunk of C tokens, each value head computes two products of C x C x keys, one of C x C x values, and three with the
    state, C x keys x values; the triangular systems take as much as C x C x (keys + values) in half a product.
    """
    keys, values = sizes.key_head_dim, sizes.value_head_dim
    of_chunk = 2 * DELTA_CHUNK * (2 * keys + values) + DELTA_CHUNK * (keys + values)
    return sizes.num_value_heads * (of_chunk + 3 * 2 * keys * values) + 2 * sizes.kernel_size * sizes.qkv_width
