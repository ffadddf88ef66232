"""What a vision tower and its projector compute and keep. No torch.

`Vision` + the clips of a micro-batch + how it is trained -> FLOPs and bytes

The rules of what autograd keeps are those of `cvft.families.decoder_costs`.
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
    WEIGHT_GRADIENT_FLOPS,
)
from cvft.families.costs import FP32_BYTES, ClipShape, Linear, Precision, Training
from cvft.families.decoder_costs import SHARED_INPUTS, adapters_bytes, layer_norm_bytes, rms_norm_bytes


@dataclass(frozen=True)
class TowerBlock:
    """A block of a tower.

    Args:
        width: Its width.
        inner: Width of its MLP.
        num_heads: Number of attention heads.
        layers: Its linear layers by their last names; all have adapters where the tower is trained.
        has_gated_mlp: Whether its MLP is gated.
        has_rms_norms: Whether its norms are those of the root mean square, not layer norms.
        is_rotary: Whether queries and keys are turned by their places, from one fused projection.
        has_qk_norm: Whether queries and keys pass through RMS norms.
        norms_outputs: Whether norms stand behind attention and MLP, not before them: the stream is as wide as they return.
    """

    width: int
    inner: int
    num_heads: int
    layers: Mapping[str, Linear]
    has_gated_mlp: bool = False
    has_rms_norms: bool = False
    is_rotary: bool = True
    has_qk_norm: bool = False
    norms_outputs: bool = False

    @property
    def weights(self) -> int:
        """Weights that each place passes through."""
        return sum(linear.weights for linear in self.layers.values())

    def kept_bytes(self, training: Training) -> int:
        """Counts what it keeps of one place when it is trained: with recomputation its input."""
        if training.recompute:
            return self.width * (training.precision.norm_value_bytes if self.norms_outputs else training.dtype_bytes)
        width, precision = self.width, training.precision
        value_bytes = precision.dtype_bytes
        # query, key, value and the softmax's sums; a fused projection stays whole for its view of the values, beside which query
        # and key are turned copies
        attention = (3 + (2 if self.is_rotary else 0)) * width * value_bytes + self.num_heads * FP32_BYTES
        # the output: that of several calls is joined, and else is what the adapter behind reads
        attention += width * value_bytes if self.is_rotary or precision.copies_inputs else 0
        attention += 2 * rms_norm_bytes(width) if self.has_qk_norm else 0
        norms = 2 * (rms_norm_bytes(width) if self.has_rms_norms else layer_norm_bytes(width, precision))
        activation = (3 if self.has_gated_mlp else 1) * self.inner * value_bytes
        adapters = adapters_bytes(
            self.layers,
            tuple(self.layers),
            precision=precision,
            rank=training.rank,
            shared=SHARED_INPUTS if self.has_rms_norms else shared_behind_layer_norm(precision),
        )
        return attention + norms + activation + adapters

    def working_bytes(self, precision: Precision) -> int:
        """Counts what one place holds at the widest point of a block that keeps nothing.

        Either the MLP, beside the streams before and behind the attention and the norm's result; or the attention, beside stream
        and norm's result: of rotary positions in fp32, or of the calls whose outputs are joined.

        Args:
            precision: Precisions of activations.
        """
        width, value_bytes = self.width, precision.dtype_bytes
        norm = width * (value_bytes if self.has_rms_norms else precision.norm_value_bytes)
        norm = 0 if self.norms_outputs else norm
        mlp = ((3 if self.has_gated_mlp else 2) * self.inner + 2 * width) * value_bytes + norm
        attention = 4 * width * value_bytes + norm
        if not self.is_rotary:  # query, key and value, and the output
            return max(mlp, attention + width * value_bytes)
        turned = 5 if value_bytes == FP32_BYTES else 6  # copies in fp32 of queries and keys among them
        tables = 2 * width // self.num_heads * FP32_BYTES
        return max(mlp, attention + turned * width * FP32_BYTES) + tables


def shared_behind_layer_norm(precision: Precision) -> Sequence[Sequence[str]]:
    """Returns the layers that keep one tensor of what a layer norm made: under autocast it is fp32, and each casts a copy."""
    return () if precision.is_autocast else SHARED_INPUTS


class Vision(Protocol):
    """The tower of a family with its projector, in numbers."""

    @property
    def block(self) -> TowerBlock:
        """One of its blocks."""

    @property
    def depth(self) -> int:
        """Number of its blocks."""

    @property
    def patch_weights(self) -> int:
        """Weights that embed one patch."""

    @property
    def pooling_weights(self) -> int:
        """Weights that make one of several places, where that belongs to the tower."""

    @property
    def projector_weights(self) -> int:
        """Weights of the projector that a token passes through."""

    @property
    def entry_weights(self) -> int:
        """Those among them of its first layers, which pass gradients on to what stands before them."""

    @property
    def has_entry_norm(self) -> bool:
        """Whether a norm of the projector stands before its first layers, and not the tower alone."""

    def num_patches(self, clip: ClipShape) -> int:
        """Counts the patches of a clip."""

    def num_places(self, clip: ClipShape) -> int:
        """Counts what passes through the blocks: patches, and what stands for a whole frame."""

    def num_pairs(self, clip: ClipShape) -> int:
        """Counts the (query, key) pairs of all blocks together."""

    def num_projected(self, clip: ClipShape) -> int:
        """Counts what passes through the projector."""

    def held_bytes(self, precision: Precision) -> int:
        """Counts what of one place is held while blocks run, besides what they compute."""

    def projector_bytes(self, training: Training) -> int:
        """Counts what is kept of one token between the blocks and the decoder, where that has a backward pass."""


class PatchSizes(Protocol):
    """Sizes of a tower whose patches become tokens."""

    @property
    def depth(self) -> int:
        """Number of its blocks."""

    @property
    def hidden_size(self) -> int:
        """Its width."""

    @property
    def patch_values(self) -> int:
        """Numbers of a patch."""

    @property
    def patches_per_token(self) -> int:
        """Patches that become one token."""

    @property
    def temporal_patch_size(self) -> int:
        """Frames that one patch spans."""


@dataclass(frozen=True)
class PatchVision:
    """What towers have in common through which nothing but patches passes, and whose patches all become tokens; see `Vision`.

    Args:
        sizes: Its sizes.
        block: One of its blocks.
    """

    sizes: PatchSizes
    block: TowerBlock

    @property
    def depth(self) -> int:
        """Number of its blocks."""
        return self.sizes.depth

    @property
    def patch_weights(self) -> int:
        """Weights that embed one patch."""
        return self.sizes.patch_values * self.sizes.hidden_size

    @property
    def pooling_weights(self) -> int:
        """What makes one token of several patches is the projector's."""
        return 0

    def num_patches(self, clip: ClipShape) -> int:
        """Counts the patches of a clip."""
        return clip.num_tokens * self.sizes.patches_per_token

    def num_places(self, clip: ClipShape) -> int:
        """Nothing but patches passes through."""
        return self.num_patches(clip)

    def num_pairs_of_grids(self, clip: ClipShape) -> int:
        """Counts the pairs of one block whose patches see their temporal grid."""
        num_patches, num_grids = self.num_patches(clip), -(-clip.num_frames // self.sizes.temporal_patch_size)
        return num_patches * (num_patches // num_grids)

    def num_projected(self, clip: ClipShape) -> int:
        """All tokens of a clip have passed through."""
        return clip.num_tokens


def tower_flops(vision: Vision, clips: Sequence[ClipShape], *, is_trained: bool, recompute: bool) -> int:
    """Counts a tower up to the projector; a trained one has its gradients end at the first block, so patches are only embedded.

    Args:
        vision: The tower.
        clips: Clips that pass through.
        is_trained: Whether it has a backward pass.
        recompute: Whether its blocks are recomputed then.
    """
    again = recompute and is_trained
    linear = FORWARD_FLOPS + is_trained * INPUT_GRADIENT_FLOPS + again * FORWARD_FLOPS
    attention = ATTENTION_FORWARD_FLOPS + is_trained * ATTENTION_BACKWARD_FLOPS + again * ATTENTION_FORWARD_FLOPS
    total = (FORWARD_FLOPS + is_trained * INPUT_GRADIENT_FLOPS) * vision.pooling_weights * num_projected(vision, clips)
    for clip in clips:
        total += linear * vision.block.weights * vision.depth * vision.num_places(clip)
        total += FORWARD_FLOPS * vision.patch_weights * vision.num_patches(clip)
        total += attention * vision.block.width * vision.num_pairs(clip)
    return total


def projector_flops(vision: Vision, clips: Sequence[ClipShape], training: Training) -> int:
    """Counts a projector. Where only the decoder is trained, it has no backward pass.

    Args:
        vision: The tower with its projector.
        clips: Clips that pass through.
        training: How it is trained.
    """
    adapter = training.adapter
    flops = FORWARD_FLOPS * vision.projector_weights
    if has_projector_gradient(training):
        passes_on = adapter.tower or (adapter.whole_projector and vision.has_entry_norm)
        flops += INPUT_GRADIENT_FLOPS * (vision.projector_weights - (0 if passes_on else vision.entry_weights))
    if adapter.whole_projector:
        flops += WEIGHT_GRADIENT_FLOPS * vision.projector_weights
    return flops * num_projected(vision, clips)


def adapter_flops(
    vision: Vision, encoded: Sequence[ClipShape], projected: Sequence[ClipShape], training: Training
) -> int:
    """Counts the adapters of tower and projector."""
    adapter, recomputed = training.adapter, trained_flops(recompute=training.recompute)
    on_tower = recomputed * adapter.tower * sum(vision.num_places(clip) for clip in encoded)
    return on_tower + trained_flops(recompute=False) * adapter.projector * num_projected(vision, projected)


def trained_flops(*, recompute: bool) -> int:
    """Returns FLOPs per trained weight and token that passes through it."""
    return FORWARD_FLOPS + INPUT_GRADIENT_FLOPS + WEIGHT_GRADIENT_FLOPS + (FORWARD_FLOPS if recompute else 0)


def saved_bytes(
    vision: Vision, encoded: Sequence[ClipShape], projected: Sequence[ClipShape], training: Training
) -> int:
    """Counts what of the clips waits for the backward pass: nothing where neither tower nor projector is trained.

    Recomputation covers the tower's blocks and not the projector.

    Args:
        vision: The tower with its projector.
        encoded: Clips that pass through the tower.
        projected: Clips that pass through the projector.
        training: How it is trained.
    """
    num_bytes = 0
    if training.adapter.tower:
        num_bytes += sum(vision.num_places(clip) for clip in encoded) * vision.depth * vision.block.kept_bytes(training)
    if has_projector_gradient(training):
        num_bytes += num_projected(vision, projected) * vision.projector_bytes(training)
    return num_bytes


def working_bytes(vision: Vision, clips: Sequence[ClipShape], training: Training) -> int:
    """Counts the tower while it runs: all clips of a micro-batch pass through together."""
    per_place = vision.block.working_bytes(training.precision) + vision.held_bytes(training.precision)
    return sum(vision.num_places(clip) for clip in clips) * per_place


def has_projector_gradient(training: Training) -> bool:
    """Tells whether anything of tower and projector is trained."""
    adapter = training.adapter
    return adapter.tower + adapter.projector + adapter.whole_projector > 0


def num_projected(vision: Vision, clips: Sequence[ClipShape]) -> int:
    """Counts what passes through the projector."""
    return sum(vision.num_projected(clip) for clip in clips)
