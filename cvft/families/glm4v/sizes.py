"""Sizes of a model that decide the shapes of its tensors and the tokens of a clip, read from config.json once. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

MODEL_TYPE = "glm4v"
"""`model_type` of config.json. Source: the published checkpoints."""


@dataclass(frozen=True)
class TowerSizes:
    """Sizes of the vision tower with its merger.

    Args:
        depth: Number of blocks.
        hidden_size: Width.
        num_heads: Number of attention heads.
        merger_size: Width of the merger's MLP.
        in_channels: Channels of a frame.
        num_positions: Rows of the learned position table.
        patch_size: Side of a patch in pixels.
        temporal_patch_size: Frames that one patch spans.
        spatial_merge_size: Patches along the side of the square that becomes one token.
        out_hidden_size: Width of a token, the decoder's, and of the MLPs of the tower's blocks.
        has_bias: Whether queries, keys, values and what follows attention have a bias.
    """

    depth: int
    hidden_size: int
    num_heads: int
    merger_size: int
    in_channels: int
    num_positions: int
    patch_size: int
    temporal_patch_size: int
    spatial_merge_size: int
    out_hidden_size: int
    has_bias: bool

    @property
    def patch_values(self) -> int:
        """Numbers of a patch: channels, frames and pixels."""
        return self.in_channels * self.temporal_patch_size * self.patch_size**2

    @property
    def patches_per_token(self) -> int:
        """Patches that become one token."""
        return self.spatial_merge_size**2

    @property
    def token_px(self) -> int:
        """Side of a token in pixels."""
        return self.patch_size * self.spatial_merge_size


@dataclass(frozen=True)
class Sizes:
    """Sizes of a whole model.

    Args:
        vocab_size: Rows of the embedding and of the output layer.
        hidden_size: Width of the decoder.
        intermediate_size: Width of its MLP.
        num_layers: Number of its blocks.
        num_heads: Number of query heads.
        num_key_value_heads: Number of key and value heads.
        head_dim: Width of a head.
        ties_embeddings: Whether the output layer is the embedding; it is not stored then.
        tower: The vision tower.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_key_value_heads: int
    head_dim: int
    ties_embeddings: bool
    tower: TowerSizes

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Reads the sizes.

        Args:
            config: Values of a config.json.

        Raises:
            KeyError: when a size is absent.
        """
        text, vision = config["text_config"], config["vision_config"]
        num_heads = text["num_attention_heads"]
        return cls(
            vocab_size=text["vocab_size"],
            hidden_size=text["hidden_size"],
            intermediate_size=text["intermediate_size"],
            num_layers=text["num_hidden_layers"],
            num_heads=num_heads,
            num_key_value_heads=text.get("num_key_value_heads") or num_heads,
            head_dim=text.get("head_dim") or text["hidden_size"] // num_heads,
            ties_embeddings=bool(config.get("tie_word_embeddings", False) or text.get("tie_word_embeddings", False)),
            tower=TowerSizes(
                depth=vision["depth"],
                hidden_size=vision["hidden_size"],
                num_heads=vision["num_heads"],
                merger_size=vision["intermediate_size"],
                in_channels=vision.get("in_channels", 3),
                num_positions=(vision["image_size"] // vision["patch_size"]) ** 2,
                patch_size=vision["patch_size"],
                temporal_patch_size=vision.get("temporal_patch_size", 2),
                spatial_merge_size=vision["spatial_merge_size"],
                out_hidden_size=vision["out_hidden_size"],
                has_bias=bool(vision.get("attention_bias", False)),
            ),
        )
