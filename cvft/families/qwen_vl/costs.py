"""Qwen-VL as numbers for the formulas of memory and FLOPs: `Family.costs` gives them to plans and forecasts. No torch.

config.json -> `Sizes` -> `Decoder` (attention or the gated delta rule, an MLP or experts), `QwenVision` -> `ModelCosts`
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cvft.families.costs import FP32_BYTES, ClipShape, Linear, Precision, Training
from cvft.families.decoder_costs import SHARED_INPUTS, Attention, Block, Decoder, GatedMlp, Mixer, rms_norm_bytes
from cvft.families.model_costs import ModelCosts
from cvft.families.parts import Shape, block_linears, linears_of
from cvft.families.qwen_vl import recurrence
from cvft.families.qwen_vl.experts import Experts
from cvft.families.qwen_vl.parts import PARTS
from cvft.families.qwen_vl.recurrence import DeltaRule
from cvft.families.qwen_vl.sizes import FULL_ATTENTION, Sizes, TowerSizes
from cvft.families.qwen_vl.tensors import DECODER, VISION, loaded_shapes
from cvft.families.tower_costs import PatchVision, TowerBlock


def costs_of(config: Mapping[str, Any]) -> ModelCosts:
    """Returns the formulas for a config.json.

    Args:
        config: Values of a checked config.json.
    """
    sizes = Sizes.from_config(config)
    shapes, parts = loaded_shapes(sizes), PARTS[sizes.model_type]
    tower = sizes.tower
    block = TowerBlock(
        tower.hidden_size,
        tower.intermediate_size,
        tower.num_heads,
        block_linears(shapes, f"{VISION}.blocks.0"),
        has_gated_mlp=tower.has_gated_mlp,
        has_rms_norms=tower.has_gated_mlp,
    )
    mergers = tuple(linears_of(shapes, parts.projector_linear).values())
    return ModelCosts(parts, shapes, _decoder(sizes, shapes), QwenVision(tower, block, mergers))


def _decoder(sizes: Sizes, shapes: Mapping[str, Shape]) -> Decoder:
    dense = () if sizes.experts is None else sizes.experts.dense_layers
    kinds = [(kind, number in dense) for number, kind in enumerate(sizes.layer_types)]
    blocks = []
    for (kind, is_dense), count in Counter(kinds).items():
        layers = block_linears(shapes, f"{DECODER}.layers.{kinds.index((kind, is_dense))}")
        blocks.append((_block(sizes, layers, kind=kind, is_dense=is_dense), count))
    return Decoder(sizes.hidden_size, sizes.vocab_size, sizes.head_dim, tuple(blocks))


def _block(sizes: Sizes, layers: Mapping[str, Linear], *, kind: str, is_dense: bool) -> Block:
    shared: Sequence[Sequence[str]] = SHARED_INPUTS
    mixer: Mixer
    if kind == FULL_ATTENTION:
        mixer = Attention(
            sizes.num_heads,
            sizes.num_key_value_heads,
            sizes.head_dim,
            has_qk_norm=sizes.has_qk_norm,
            has_output_gate=sizes.has_output_gate,
        )
    else:
        assert sizes.delta_net is not None, "only hybrid decoders have other kinds"
        mixer = DeltaRule(sizes.delta_net)
        shared = (*shared, *recurrence.SHARED_INPUTS)
    if sizes.experts is None or is_dense:
        return Block(mixer, GatedMlp(sizes.intermediate_size), layers, shared=shared)
    experts = Experts(sizes.experts, sizes.hidden_size)
    return Block(mixer, experts, layers, other_weights=experts.chosen_weights, ends_with_mlp=False, shared=shared)


@dataclass(frozen=True)
class QwenVision(PatchVision):
    """The tower with its mergers; see `cvft.families.tower_costs.Vision`.

    Args:
        sizes: Its sizes.
        block: One of its blocks.
        mergers: Linear layers of all mergers.
    """

    sizes: TowerSizes
    mergers: Sequence[Linear]
    has_entry_norm: bool = True

    @property
    def projector_weights(self) -> int:
        """Weights of all mergers; a token passes through each of them."""
        return sum(linear.weights for linear in self.mergers)

    @property
    def entry_weights(self) -> int:
        """Those of their first layers."""
        return self.sizes.num_levels * self.sizes.merged_size**2

    def num_pairs(self, clip: ClipShape) -> int:
        """Patches see their temporal grid, or windows of it, which are taken as whole."""
        sizes, of_grids = self.sizes, self.num_pairs_of_grids(clip)
        if not sizes.window_size:
            return sizes.depth * of_grids
        window = (sizes.window_size // sizes.patch_size) ** 2
        num_full = len(sizes.full_attention_layers)
        return num_full * of_grids + (sizes.depth - num_full) * min(of_grids, self.num_patches(clip) * window)

    def held_bytes(self, precision: Precision) -> int:
        """Learned positions, which are computed in fp32, and what deep blocks have given to the decoder."""
        sizes = self.sizes
        deep = (sizes.num_levels - 1) * sizes.out_hidden_size // sizes.patches_per_token
        return deep * precision.dtype_bytes + (sizes.hidden_size * FP32_BYTES if sizes.num_positions else 0)

    def projector_bytes(self, training: Training) -> int:
        """Counts what all mergers keep of one token; one that is trained wholly keeps each layer's input."""
        sizes, adapter, precision = self.sizes, training.adapter, training.precision
        merged, levels, is_whole = sizes.merged_size, sizes.num_levels, adapter.whole_projector > 0
        norm = 0
        if adapter.tower or is_whole:  # what a deep block's merger norms is kept by the next block
            norm = rms_norm_bytes(merged, num_norms=sizes.patches_per_token)
            norm += merged * precision.dtype_bytes if is_whole and sizes.has_gated_mlp else 0
            if not adapter.tower or precision.is_autocast:  # each norm reads a copy in fp32 of its own
                norm += (levels - 1) * merged * precision.norm_value_bytes
        activation = levels * merged * precision.dtype_bytes
        kept = sum(linear.num_in for linear in self.mergers) * precision.dtype_bytes if is_whole else 0
        adapters = 0
        if adapter.projector:
            adapters = sum(precision.adapter_bytes(linear, rank=training.rank) for linear in self.mergers)
        return norm + activation + kept + adapters


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
