"""CogVLM2-Video as numbers for the formulas of memory and FLOPs: `Family.costs` gives them to plans and forecasts. No torch.

`Architecture` -> `Decoder` (with `FusedAttention`), `CogVision` -> `ModelCosts`
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cvft.families.arithmetic import ATTENTION_BACKWARD_FLOPS, ATTENTION_FORWARD_FLOPS
from cvft.families.cogvlm2_video.architecture import Architecture
from cvft.families.cogvlm2_video.tensors import PARTS
from cvft.families.costs import FP32_BYTES, Batch, ClipShape, Precision, Training
from cvft.families.decoder_costs import Block, Decoder, GatedMlp, adapters_bytes, layer_norm_bytes
from cvft.families.model_costs import ModelCosts
from cvft.families.tower_costs import TowerBlock

GATES = (("gate_proj", "dense_h_to_4h"),)
"""Layers of the projector that read one tensor."""


def costs_of(architecture: Architecture) -> ModelCosts:
    """Returns the formulas for a model.

    Args:
        architecture: Its sizes.
    """
    attention = FusedAttention(architecture.hidden_size, architecture.num_attention_heads, architecture.key_value_width)
    block = Block(attention, GatedMlp(architecture.intermediate_size), architecture.language_linears)
    vision = architecture.vision
    tower = TowerBlock(
        vision.hidden_size,
        vision.intermediate_size,
        vision.num_heads,
        architecture.tower_linears,
        is_rotary=False,
        norms_outputs=True,
    )
    return ModelCosts(
        PARTS,
        architecture.shapes,
        Decoder(
            architecture.hidden_size,
            architecture.vocab_size,
            rotary_width=0,  # each block has its own table
            blocks=((block, architecture.num_hidden_layers),),
        ),
        CogVision(architecture, tower),
    )


@dataclass(frozen=True)
class FusedAttention:
    """Attention of one fused projection, whose groups lie under a mask; see `cvft.families.decoder_costs.Mixer`.

    Args:
        width: Width of the decoder, and of all queries.
        num_heads: Number of query heads.
        key_value_width: Width of all keys, and of all values, of a token.
    """

    width: int
    num_heads: int
    key_value_width: int

    def kept_bytes(self, batch: Batch, precision: Precision) -> int:
        """Counts query, keys, values, output, the block's table of positions and the mask.

        Value is a view of the fused projection, which therefore stays whole. With a mask, keys and values are repeated for every
        query head, because the kernel that takes a mask knows no groups; a boolean mask becomes an additive one in every block.
        """
        fused = self.width + 2 * self.key_value_width
        keys_and_values = 2 * self.width if batch.num_mask_cells else self.key_value_width + fused
        values = 2 * self.width + keys_and_values + self.width // self.num_heads
        per_token = values * precision.dtype_bytes + self.num_heads * FP32_BYTES
        return batch.num_tokens * per_token + batch.num_mask_cells * precision.dtype_bytes

    def flops(self, batch: Batch, *, num_forward: int) -> int:
        """Counts scores and sums."""
        return (ATTENTION_FORWARD_FLOPS * num_forward + ATTENTION_BACKWARD_FLOPS) * self.width * batch.num_pairs


@dataclass(frozen=True)
class CogVision:
    """The tower, the pooling convolution and the projector, before which features are cached; see `tower_costs.Vision`.

    Args:
        sizes: Sizes of the model.
        block: A block of the tower.
    """

    sizes: Architecture
    block: TowerBlock
    has_entry_norm: bool = False

    @property
    def depth(self) -> int:
        """Number of its blocks."""
        return self.sizes.vision.num_hidden_layers

    @property
    def patch_weights(self) -> int:
        """Weights that embed one patch."""
        return self.sizes.vision.patch_weights

    @property
    def pooling_weights(self) -> int:
        """Weights of the pooling convolution."""
        return self.sizes.vision.pooling_weights

    @property
    def projector_weights(self) -> int:
        """Weights of the projector."""
        return self.sizes.projector_weights

    @property
    def entry_weights(self) -> int:
        """Those of its first layer."""
        return self.sizes.projector_linears["linear_proj"].weights

    def num_patches(self, clip: ClipShape) -> int:
        """All frames have the same size."""
        return clip.num_frames * self.sizes.vision.num_patches

    def num_places(self, clip: ClipShape) -> int:
        """Each frame has one place more, for the whole of it."""
        return clip.num_frames * self.sizes.vision.num_positions

    def num_pairs(self, clip: ClipShape) -> int:
        """Places see their frame."""
        return self.depth * clip.num_frames * self.sizes.vision.num_positions**2

    def num_projected(self, clip: ClipShape) -> int:
        """Pooled patches; what marks frames and time passes by."""
        return clip.num_frames * self.sizes.vision.num_pooled_patches

    def held_bytes(self, precision: Precision) -> int:
        """The embeddings."""
        return self.sizes.vision.hidden_size * precision.dtype_bytes

    def projector_bytes(self, training: Training) -> int:
        """Counts the pooling convolution's input and the projector; one that is trained wholly keeps each layer's input."""
        adapter, precision, vision = training.adapter, training.precision, self.sizes.vision
        width, inner, value_bytes = self.sizes.hidden_size, self.sizes.intermediate_size, precision.dtype_bytes
        num_bytes = layer_norm_bytes(width, precision) + width * precision.norm_value_bytes + 3 * inner * value_bytes
        if adapter.tower:
            of_frame = vision.num_positions * vision.hidden_size * precision.norm_value_bytes
            num_bytes += of_frame // vision.num_pooled_patches
        shared = () if precision.is_autocast else GATES  # behind a norm in fp32, each casts a copy
        if adapter.whole_projector:
            num_bytes += (vision.hidden_size + (1 if shared else 2) * width + inner) * value_bytes
        if adapter.projector:
            layers = self.sizes.projector_linears
            num_bytes += adapters_bytes(layers, tuple(layers), precision=precision, rank=training.rank, shared=shared)
        return num_bytes


def feature_bytes(architecture: Architecture, clips: Sequence[ClipShape], *, dtype_bytes: int) -> int:
    """Returns the bytes of stored features, taken between pooling convolution and projector.

    Args:
        architecture: The model's sizes.
        clips: The clips.
        dtype_bytes: Bytes of a value.

    Returns:
        Bytes, without the files' headers.
    """
    num_patches = sum(clip.num_frames for clip in clips) * architecture.vision.num_pooled_patches
    return num_patches * architecture.vision.hidden_size * dtype_bytes
