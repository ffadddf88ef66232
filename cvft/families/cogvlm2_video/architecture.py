"""Sizes of a model that the formulas of costs speak of, taken from config.json and from the shapes of its tensors.

values of config.json -> `Architecture` -> `costs`

Pure: no torch and no weights, so that a plan can be made for a model that is not on this machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Self

from cvft.families.cogvlm2_video.tensors import PARTS, POOLED_SIDE, PUBLISHED_SIZES, published_shapes
from cvft.families.costs import Linear, Parameters
from cvft.families.parts import Shape, count_buffers, count_parameters, linears_of

FRAME_MARKERS = 2
"""Learned tokens around each frame, boi and eoi. Source: the published state-dict keys."""


@dataclass(frozen=True)
class VisionArchitecture:
    """Sizes of the vision tower, under the published key names.

    Args:
        hidden_size: Width of the tower.
        intermediate_size: Width of its MLP.
        num_hidden_layers: Number of blocks.
        num_heads: Number of attention heads.
        patch_size: Side of a patch in pixels.
        in_channels: Channels of a frame.
        num_positions: Patches of a frame plus one class token.
    """

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_heads: int
    patch_size: int
    in_channels: int
    num_positions: int

    @property
    def num_patches(self) -> int:
        """Patches of a frame."""
        return self.num_positions - 1

    @property
    def num_pooled_patches(self) -> int:
        """Patches of a frame after the pooling convolution."""
        return self.num_patches // POOLED_SIDE**2

    @property
    def patch_weights(self) -> int:
        """Weights of the convolution that embeds patches."""
        return self.in_channels * self.patch_size**2 * self.hidden_size

    @property
    def pooling_weights(self) -> int:
        """Weights of the pooling convolution."""
        return POOLED_SIDE**2 * self.hidden_size**2


@dataclass(frozen=True)
class Architecture:
    """Sizes of the whole model, under the published key names.

    Args:
        vocab_size: Rows of the embedding and of the output layer.
        hidden_size: Width of the decoder.
        intermediate_size: Width of its MLP, and of the projector's.
        num_hidden_layers: Number of decoder blocks.
        num_attention_heads: Number of query heads.
        num_multi_query_heads: Number of key/value heads.
        vision: The tower.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_multi_query_heads: int
    vision: VisionArchitecture

    @classmethod
    def from_config(cls, values: Mapping[str, Any]) -> Self:
        """Takes the sizes out of a config.json; what it does not state has the published value.

        Args:
            values: Keys and values as `cvft.weights.folder.read_config_json` returns them.

        Returns:
            The sizes.
        """
        sizes = {**PUBLISHED_SIZES, **values}
        vision_sizes = {**PUBLISHED_SIZES["vision_config"], **(values.get("vision_config") or {})}
        vision = VisionArchitecture(**_known(VisionArchitecture, vision_sizes))
        return cls(**_known(cls, sizes), vision=vision)

    @cached_property
    def shapes(self) -> Mapping[str, Shape]:
        """Every tensor of the checkpoint."""
        sizes = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "vision"}
        vision = {each.name: getattr(self.vision, each.name) for each in fields(self.vision)}
        return published_shapes({**sizes, "vision_config": vision})

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def key_value_width(self) -> int:
        """Width of all keys, and of all values, of a token."""
        return self.num_multi_query_heads * self.head_dim

    @property
    def num_tokens_per_frame(self) -> int:
        """Tokens that a frame takes in the language model, without its time token."""
        return self.vision.num_pooled_patches + FRAME_MARKERS

    @cached_property
    def num_buffer_values(self) -> int:
        """Values of the rotary tables, one table per decoder block; they lie in the checkpoint beside the parameters."""
        return count_buffers(PARTS, self.shapes)

    @cached_property
    def parameters(self) -> Parameters:
        """Parameters of the whole model, by part."""
        return count_parameters(PARTS, self.shapes)

    @cached_property
    def language_linears(self) -> dict[str, Linear]:
        """Linear layers of one decoder block, by name."""
        return self._linears(r"model\.layers\.0\..*")

    @cached_property
    def tower_linears(self) -> dict[str, Linear]:
        """Linear layers of one block of the tower, by name; each has a bias."""
        return self._linears(r"model\.vision\.transformer\.layers\.0\..*")

    @cached_property
    def projector_linears(self) -> dict[str, Linear]:
        """Linear layers of the projector, by name."""
        return self._linears(PARTS.projector_linear)

    def _linears(self, expression: str) -> dict[str, Linear]:
        found = linears_of(self.shapes, expression)
        return {name.rpartition(".")[2]: linear for name, linear in found.items()}

    @property
    def language_layer_weights(self) -> int:
        """Weights of the linear layers of one decoder block."""
        return sum(linear.weights for linear in self.language_linears.values())

    @property
    def tower_layer_weights(self) -> int:
        """Weights of the linear layers of one block of the tower, without biases."""
        return sum(linear.weights for linear in self.tower_linears.values())

    @property
    def projector_weights(self) -> int:
        """Weights of the linear layers of the projector."""
        return sum(linear.weights for linear in self.projector_linears.values())


def _known(cls: type[Any], values: Mapping[str, Any]) -> dict[str, int]:
    names = {each.name for each in fields(cls)} - {"vision"}
    return {name: value for name, value in values.items() if name in names}
