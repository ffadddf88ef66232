"""What a decoder computes and keeps, block by block: a token mixer, an MLP, and the norms and adapters around them. No torch.

`Decoder` + `Batch` + how it is trained -> FLOPs and bytes of its blocks

The rules of what autograd keeps: a frozen linear layer keeps nothing, its weight is there anyway; an adapter keeps its input and
the output of A; a product keeps its factors that need a gradient or multiply one that does; the fused attention keeps query,
key, value, output and the logarithm of each softmax's sum. Read off transformers' classes, peft's `Linear` and the attention of
groups; `tests/test_stock_costs.py` compares the sums with a real forward pass.
Source of the accounting of FLOPs: `cvft.families.arithmetic`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from cvft.families.arithmetic import (
    ATTENTION_BACKWARD_FLOPS,
    ATTENTION_FORWARD_FLOPS,
    FORWARD_FLOPS,
    INPUT_GRADIENT_FLOPS,
)
from cvft.families.costs import FP32_BYTES, Batch, GroupShape, Linear, Precision, Training, causal_pairs
from cvft.families.resident import cast_bytes

SHARED_INPUTS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Layers that read one tensor: the first with an adapter keeps it for all."""

LAST_LAYER = "down_proj"
"""The layer that a block ends with: recomputation ends before it, where it has no adapter and nothing behind it keeps its output
(torch's early stop)."""


def rms_norm_bytes(width: int, *, num_norms: int = 1) -> int:
    """Returns bytes per token that RMS norms keep: their input in fp32, and of each the reciprocal of its root mean square."""
    return (width + num_norms) * FP32_BYTES


def layer_norm_bytes(width: int, precision: Precision) -> int:
    """Returns bytes per token that a layer norm keeps: its input, mean and reciprocal deviation, as wide as it computes."""
    return (width + 2) * precision.norm_value_bytes


def adapters_bytes(
    layers: Mapping[str, Linear],
    adapted: Sequence[str],
    *,
    precision: Precision,
    rank: int,
    shared: Sequence[Sequence[str]] = SHARED_INPUTS,
) -> int:
    """Counts what the adapters of one block keep of one token.

    Args:
        layers: Linear layers of the block by their last names.
        adapted: Last names of those with an adapter; some may lie in other blocks.
        precision: Precisions of activations.
        rank: Rank of each.
        shared: Layers that read one tensor.
    """
    total = 0
    for name in adapted:
        if name in layers:
            sharing = next((group for group in shared if name in group), (name,))
            first = next(each for each in sharing if each in adapted)
            total += precision.adapter_bytes(layers[name], rank=rank, shares_input=name != first)
    return total


class Mixer(Protocol):
    """What lets tokens of a sequence see each other, its linear layers apart."""

    def kept_bytes(self, batch: Batch, precision: Precision) -> int:
        """Counts what it keeps of a micro-batch."""

    def flops(self, batch: Batch, *, num_forward: int) -> int:
        """Counts its products that are no linear layers, of so many forward passes and a backward pass."""


class Mlp(Protocol):
    """What each token passes through by itself, its linear layers apart."""

    def kept_bytes(self, precision: Precision) -> int:
        """Counts what it keeps of one token."""

    def working_bytes(self, precision: Precision) -> int:
        """Counts what stands beside that at the worst moment of its backward pass, of one token."""


@dataclass(frozen=True)
class Attention:
    """Causal attention of groups: heads that share keys, with rotary positions.

    Args:
        num_heads: Number of query heads.
        num_key_value_heads: Number of key and value heads.
        head_dim: Width of a head.
        has_qk_norm: Whether queries and keys pass through norms before the rotary positions.
        has_output_gate: Whether its output is gated, by what the layer of the queries makes besides.
    """

    num_heads: int
    num_key_value_heads: int
    head_dim: int
    has_qk_norm: bool = False
    has_output_gate: bool = False

    @property
    def query_width(self) -> int:
        """Width of all queries of a token."""
        return self.num_heads * self.head_dim

    def kept_bytes(self, batch: Batch, precision: Precision) -> int:
        """Counts queries, keys and values, what norms keep of them, and the kernel."""
        kernel = sum(self._kernel_bytes(group, value_bytes=precision.dtype_bytes) for group in batch.groups)
        return batch.num_tokens * self._projected_bytes(precision) + kernel

    def _projected_bytes(self, precision: Precision) -> int:
        """Counts what is kept of one token up to the kernel, and behind it where the output is gated."""
        queries, keys = self.query_width, self.num_key_value_heads * self.head_dim
        total = (queries + 2 * keys) * precision.dtype_bytes
        if self.has_qk_norm:
            # in fp32 what the norm keeps is a view of the projection, half of which is the gate
            is_view = self.has_output_gate and precision.dtype_bytes == FP32_BYTES
            total += rms_norm_bytes(queries * (2 if is_view else 1), num_norms=self.num_heads)
            total += rms_norm_bytes(keys, num_norms=self.num_key_value_heads)
        if self.has_output_gate:
            total += 2 * queries * precision.dtype_bytes
        return total

    def _kernel_bytes(self, group: GroupShape, *, value_bytes: int) -> int:
        """Counts what the attention of groups keeps of one sequence, beyond query, key and value.

        A single question is one causal call. With several, all of them are one more call: each has its queries, and the keys
        and values of the prefix beside its own, repeated for every query head and padded to the longest question, under one
        mask that becomes an additive one.
        """
        queries, sums = self.query_width * value_bytes, self.num_heads * FP32_BYTES
        if len(group.question_tokens) == 1:
            return group.num_tokens * (queries + sums)
        num, longest, prefix = len(group.question_tokens), max(group.question_tokens), group.num_prefix_tokens
        seen = prefix + longest
        stacked = num * longest * (2 * queries + sums) + num * seen * 2 * queries
        return prefix * (queries + sums) + stacked + longest * seen * value_bytes

    def flops(self, batch: Batch, *, num_forward: int) -> int:
        """Counts scores and sums."""
        per_pair = ATTENTION_FORWARD_FLOPS * num_forward + ATTENTION_BACKWARD_FLOPS
        return per_pair * self.query_width * sum(attended_pairs(group) for group in batch.groups)


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


@dataclass(frozen=True)
class GatedMlp:
    """Two layers side by side, one of which passes through silu and gates the other, and a layer back.

    Args:
        width: Its inner width.
    """

    width: int

    def kept_bytes(self, precision: Precision) -> int:
        """Counts the gate, which silu keeps, and silu's result and the up projection, which their product keeps."""
        return 3 * self.width * precision.dtype_bytes

    def working_bytes(self, precision: Precision) -> int:
        """On the way back, two gradients of the inner width stand beside what is kept."""
        return 2 * self.width * precision.dtype_bytes


@dataclass(frozen=True)
class Block:
    """One kind of decoder block.

    Args:
        mixer: What mixes tokens.
        mlp: What follows.
        layers: Its linear layers by their last names, in the block's order.
        num_norms: RMS norms of the decoder's width.
        other_weights: Weights of products besides, that each token passes through.
        ends_with_mlp: Whether nothing behind the MLP's last layer keeps its output; see `LAST_LAYER`.
        shared: Layers that read one tensor.
    """

    mixer: Mixer
    mlp: Mlp
    layers: Mapping[str, Linear]
    num_norms: int = 2
    other_weights: int = 0
    ends_with_mlp: bool = True
    shared: Sequence[Sequence[str]] = SHARED_INPUTS

    @property
    def weights(self) -> int:
        """Weights that each token passes through."""
        return sum(linear.weights for linear in self.layers.values()) + self.other_weights

    def linear_flops(self, training: Training) -> int:
        """Counts its linear layers for one token, forward and backward."""
        again = 0
        if training.recompute:
            is_spared = self.ends_with_mlp and LAST_LAYER not in training.adapted
            again = FORWARD_FLOPS * (self.weights - (self.layers[LAST_LAYER].weights if is_spared else 0))
        return (FORWARD_FLOPS + INPUT_GRADIENT_FLOPS) * self.weights + again

    def kept_bytes(self, width: int, batch: Batch, training: Training) -> int:
        """Counts what it keeps of a micro-batch for the backward pass."""
        per_token = self.num_norms * rms_norm_bytes(width) + self.mlp.kept_bytes(training.precision)
        per_token += adapters_bytes(
            self.layers, training.adapted, precision=training.precision, rank=training.rank, shared=self.shared
        )
        return batch.num_tokens * per_token + self.mixer.kept_bytes(batch, training.precision)


@dataclass(frozen=True)
class Decoder:
    """The decoder of a model with its output layer.

    Args:
        width: Its width.
        vocab_size: Rows of the output layer.
        rotary_width: Width of the cosines, and of the sines, of a token's position.
        blocks: Each kind of its blocks, and how many there are.
    """

    width: int
    vocab_size: int
    rotary_width: int
    blocks: Sequence[tuple[Block, int]]

    @property
    def num_layers(self) -> int:
        """Number of its blocks."""
        return sum(count for _, count in self.blocks)

    def linear_flops(self, training: Training) -> int:
        """Counts the linear layers of all blocks for one token."""
        return sum(count * block.linear_flops(training) for block, count in self.blocks)

    def mixing_flops(self, batch: Batch, training: Training) -> int:
        """Counts what mixes the tokens of a micro-batch, in all blocks."""
        num_forward = 2 if training.recompute else 1
        return sum(count * block.mixer.flops(batch, num_forward=num_forward) for block, count in self.blocks)

    def output_flops(self, batch: Batch, training: Training) -> int:
        """Counts the output layer."""
        num_scored = batch.num_tokens if training.scores_all_tokens else batch.num_label_tokens
        return (FORWARD_FLOPS + INPUT_GRADIENT_FLOPS) * self.vocab_size * self.width * num_scored

    def saved_bytes(self, batch: Batch, training: Training) -> int:
        """Counts the activations that wait for the backward pass, without those of the loss.

        Without recomputation all that its blocks keep; with it the input of every block and the embeddings, which
        `enable_input_require_grads` makes a leaf then. The first block's first norm is among them, though it saves nothing when
        its input needs no gradient.
        """
        tokens, value_bytes = batch.num_tokens, training.precision.dtype_bytes
        num_bytes = tokens * rms_norm_bytes(self.width)  # the norm after the last block
        num_bytes += 2 * tokens * self.rotary_width * value_bytes  # cosines and sines, for all blocks
        if training.recompute:
            num_bytes += (self.num_layers + 1) * tokens * self.width * value_bytes
            return num_bytes + cast_bytes(training, num_values=training.adapter.whole_projector)  # not recomputed
        num_bytes += sum(count * block.kept_bytes(self.width, batch, training) for block, count in self.blocks)
        return num_bytes + cast_bytes(training, num_values=training.adapter.total)

    def layer_bytes(self, batch: Batch, training: Training) -> int:
        """Counts a block in its backward pass: its gradients, and with recomputation its activations."""
        num_bytes = max(self._backward_bytes(block, batch, training) for block, _ in self.blocks)
        if training.quantize != "none":  # one layer's weights at a time are unpacked for the products
            largest = max(linear.weights for block, _ in self.blocks for linear in block.layers.values())
            num_bytes += largest * training.dtype_bytes
        if training.recompute:
            num_bytes += cast_bytes(training, num_values=training.adapter.language // self.num_layers)
        return num_bytes

    def _backward_bytes(self, block: Block, batch: Batch, training: Training) -> int:
        """Around the MLP lie the residual stream and its gradient, and the copies of both that the norms made in fp32."""
        value_bytes = training.precision.dtype_bytes
        residual = 2 * value_bytes if value_bytes == FP32_BYTES else 4 * value_bytes
        num_bytes = batch.num_tokens * (block.mlp.working_bytes(training.precision) + self.width * residual)
        return num_bytes + (block.kept_bytes(self.width, batch, training) if training.recompute else 0)
