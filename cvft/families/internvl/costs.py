"""InternVL as numbers for the formulas of memory and FLOPs: `Family.costs` gives them to plans and forecasts. No torch.

config.json -> `Sizes` -> `Decoder`, `InternVLVision` -> `ModelCosts`
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cvft.families.costs import ClipShape, Linear, Precision, Training
from cvft.families.decoder_costs import Attention, Block, Decoder, GatedMlp, layer_norm_bytes
from cvft.families.internvl.parts import PARTS
from cvft.families.internvl.sizes import Sizes, TowerSizes
from cvft.families.internvl.tensors import DECODER, PROJECTOR, TOWER, loaded_shapes
from cvft.families.model_costs import ModelCosts
from cvft.families.parts import block_linears
from cvft.families.tower_costs import TowerBlock


def costs_of(config: Mapping[str, Any]) -> ModelCosts:
    """Returns the formulas for a config.json.

    Args:
        config: Values of a checked config.json.
    """
    sizes = Sizes.from_config(config)
    shapes, tower = loaded_shapes(sizes), sizes.tower
    attention = Attention(sizes.num_heads, sizes.num_key_value_heads, sizes.head_dim, has_qk_norm=sizes.has_qk_norm)
    block = Block(attention, GatedMlp(sizes.intermediate_size), block_linears(shapes, f"{DECODER}.layers.0"))
    tower_block = TowerBlock(
        tower.hidden_size,
        tower.intermediate_size,
        tower.num_heads,
        block_linears(shapes, f"{TOWER}.encoder.layer.0"),
        has_rms_norms=not tower.has_norm_bias,
        is_rotary=False,
        has_qk_norm=tower.has_qk_norm,
    )
    vision = InternVLVision(tower, tower_block, block_linears(shapes, PROJECTOR))
    decoder = Decoder(sizes.hidden_size, sizes.vocab_size, sizes.head_dim, ((block, sizes.num_layers),))
    return ModelCosts(PARTS, shapes, decoder, vision)


@dataclass(frozen=True)
class InternVLVision:
    """The tower, the pixel shuffle and the projector; see `cvft.families.tower_costs.Vision`.

    Args:
        sizes: Its sizes.
        block: One of its blocks.
        projector: Linear layers of the projector by their last names.
    """

    sizes: TowerSizes
    block: TowerBlock
    projector: Mapping[str, Linear]
    has_entry_norm: bool = True
    pooling_weights: int = 0

    @property
    def depth(self) -> int:
        """Number of its blocks."""
        return self.sizes.depth

    @property
    def patch_weights(self) -> int:
        """Weights that embed one patch."""
        return self.sizes.num_channels * self.sizes.patch_size**2 * self.sizes.hidden_size

    @property
    def projector_weights(self) -> int:
        """Weights of both layers."""
        return sum(linear.weights for linear in self.projector.values())

    @property
    def entry_weights(self) -> int:
        """Those of the first."""
        return self.projector["linear_1"].weights

    def num_patches(self, clip: ClipShape) -> int:
        """All frames have the same size."""
        return clip.num_frames * self.sizes.patches_per_side**2

    def num_places(self, clip: ClipShape) -> int:
        """Each frame has one place more, for the whole of it."""
        return self.num_patches(clip) + clip.num_frames

    def num_pairs(self, clip: ClipShape) -> int:
        """Places see their frame."""
        return self.depth * clip.num_frames * (self.sizes.patches_per_side**2 + 1) ** 2

    def num_projected(self, clip: ClipShape) -> int:
        """All tokens of a clip have passed through."""
        return clip.num_tokens

    def held_bytes(self, precision: Precision) -> int:
        """The embeddings, and what attention made before it was scaled."""
        return 2 * self.sizes.hidden_size * precision.dtype_bytes

    def projector_bytes(self, training: Training) -> int:
        """Counts norm, first layer, gelu and second layer; the pixel shuffle keeps nothing."""
        adapter, precision = training.adapter, training.precision
        first, second = self.projector["linear_1"], self.projector["linear_2"]
        is_whole = adapter.whole_projector > 0
        num_bytes = first.num_out * precision.dtype_bytes  # what gelu read
        if adapter.tower or is_whole:
            num_bytes += layer_norm_bytes(first.num_in, precision)
        if is_whole:
            num_bytes += (first.num_in + second.num_in) * precision.dtype_bytes
        if adapter.projector:
            num_bytes += sum(precision.adapter_bytes(each, rank=training.rank) for each in (first, second))
        return num_bytes
