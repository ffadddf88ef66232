"""GLM-4.1V as numbers for the formulas of memory and FLOPs: `Family.costs` gives them to plans and forecasts. No torch.

config.json -> `Sizes` -> `Decoder`, `Glm4vVision` -> `ModelCosts`
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cvft.families.costs import ClipShape, Linear, Precision, Training
from cvft.families.decoder_costs import (
    Attention,
    Block,
    Decoder,
    GatedMlp,
    adapters_bytes,
    layer_norm_bytes,
    rms_norm_bytes,
)
from cvft.families.glm4v.parts import PARTS
from cvft.families.glm4v.sizes import Sizes, TowerSizes
from cvft.families.glm4v.tensors import DECODER, VISION, tensor_shapes
from cvft.families.model_costs import ModelCosts
from cvft.families.parts import block_linears
from cvft.families.tower_costs import PatchVision, TowerBlock, shared_behind_layer_norm


def costs_of(config: Mapping[str, Any]) -> ModelCosts:
    """Returns the formulas for a config.json.

    Args:
        config: Values of a checked config.json.
    """
    sizes = Sizes.from_config(config)
    shapes, tower = tensor_shapes(sizes), sizes.tower
    block = Block(
        Attention(sizes.num_heads, sizes.num_key_value_heads, sizes.head_dim),
        GatedMlp(sizes.intermediate_size),
        block_linears(shapes, f"{DECODER}.layers.0"),
        num_norms=4,
        ends_with_mlp=False,  # a norm follows
    )
    tower_block = TowerBlock(
        tower.hidden_size,
        tower.out_hidden_size,
        tower.num_heads,
        block_linears(shapes, f"{VISION}.blocks.0"),
        has_gated_mlp=True,
        has_rms_norms=True,
    )
    downsample = math.prod(shapes[f"{VISION}.downsample.weight"])
    vision = Glm4vVision(tower, tower_block, downsample, block_linears(shapes, f"{VISION}.merger"))
    decoder = Decoder(sizes.hidden_size, sizes.vocab_size, sizes.head_dim, ((block, sizes.num_layers),))
    return ModelCosts(PARTS, shapes, decoder, vision)


@dataclass(frozen=True)
class Glm4vVision(PatchVision):
    """The tower, the convolution that makes one token of several patches, and the merger; see `tower_costs.Vision`.

    Args:
        sizes: Its sizes.
        block: One of its blocks.
        entry_weights: Weights of the convolution.
        merger: Linear layers of the merger by their last names.
    """

    sizes: TowerSizes
    entry_weights: int
    merger: Mapping[str, Linear]
    has_entry_norm: bool = False
    """The norm before the convolution is the tower's."""

    @property
    def projector_weights(self) -> int:
        """Weights of convolution and merger."""
        return self.entry_weights + sum(linear.weights for linear in self.merger.values())

    def num_pairs(self, clip: ClipShape) -> int:
        """Patches see their temporal grid."""
        return self.depth * self.num_pairs_of_grids(clip)

    def held_bytes(self, precision: Precision) -> int:
        """Nothing is."""
        del precision
        return 0

    def projector_bytes(self, training: Training) -> int:
        """Counts the norm before the convolution, which needs its input for any gradient, and the merger behind it."""
        adapter, precision, width = training.adapter, training.precision, self.sizes.hidden_size
        value_bytes, is_whole = precision.dtype_bytes, adapter.whole_projector > 0
        out, inner = self.merger["down_proj"].num_out, self.merger["down_proj"].num_in
        of_patch = rms_norm_bytes(width) if adapter.tower else 0
        of_patch += width * value_bytes if adapter.tower or is_whole else 0
        num_bytes = self.sizes.patches_per_token * of_patch
        # the norm behind the first layer, gelu, and the gate with what it multiplies
        num_bytes += layer_norm_bytes(out, precision) + out * precision.norm_value_bytes + 3 * inner * value_bytes
        shared = shared_behind_layer_norm(precision)
        if is_whole:  # what the first, the gate with its neighbour, and the last layer read
            num_bytes += (out + (1 if shared else 2) * out + inner) * value_bytes
        if adapter.projector:
            layers = self.merger
            num_bytes += adapters_bytes(layers, tuple(layers), precision=precision, rank=training.rank, shared=shared)
        return num_bytes
