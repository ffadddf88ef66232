"""Sizes of a model that decide the shapes of its tensors and the tokens of a frame, read from config.json once. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

MODEL_TYPE = "internvl"
"""`model_type` of config.json. Source: the published checkpoints."""

QWEN2, QWEN3 = "qwen2", "qwen3"
DECODERS = (QWEN2, QWEN3)
"""Decoders that are known here, by `model_type` of `text_config`: the first is that of InternVL3, the other that of 3.5."""


@dataclass(frozen=True)
class TowerSizes:
    """Sizes of the vision tower and the projector behind it.

    Args:
        depth: Number of blocks.
        hidden_size: Width.
        num_heads: Number of attention heads.
        intermediate_size: Width of a block's MLP.
        num_channels: Channels of a frame.
        image_size: Side of a frame in pixels.
        patch_size: Side of a patch in pixels.
        has_qkv_bias: Whether queries, keys and values have a bias.
        has_qk_norm: Whether queries and keys pass through norms.
        has_norm_bias: Whether the norms of a block have a bias: layer norms do, those of the root mean square do not.
        downsample: Patches along the side of the square that becomes one token.
    """

    depth: int
    hidden_size: int
    num_heads: int
    intermediate_size: int
    num_channels: int
    image_size: int
    patch_size: int
    has_qkv_bias: bool
    has_qk_norm: bool
    has_norm_bias: bool
    downsample: int

    @property
    def patches_per_side(self) -> int:
        """Patches along the side of a frame."""
        return self.image_size // self.patch_size

    @property
    def tokens_per_frame(self) -> int:
        """Tokens of a frame."""
        return (self.patches_per_side // self.downsample) ** 2

    @property
    def merged_size(self) -> int:
        """Width of the patches of one token side by side."""
        return self.hidden_size * self.downsample**2


@dataclass(frozen=True)
class Sizes:
    """Sizes of a whole model.

    Args:
        decoder: One of `DECODERS`.
        vocab_size: Rows of the embedding and of the output layer.
        hidden_size: Width of the decoder.
        intermediate_size: Width of its MLP.
        num_layers: Number of its blocks.
        num_heads: Number of query heads.
        num_key_value_heads: Number of key and value heads.
        head_dim: Width of a head.
        has_qkv_bias: Whether queries, keys and values have a bias.
        has_output_bias: Whether the layer after attention has one.
        has_qk_norm: Whether queries and keys pass through norms.
        ties_embeddings: Whether the output layer is the embedding; it is not stored then.
        tower: The vision tower.
    """

    decoder: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_key_value_heads: int
    head_dim: int
    has_qkv_bias: bool
    has_output_bias: bool
    has_qk_norm: bool
    ties_embeddings: bool
    tower: TowerSizes

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Reads the sizes.

        Args:
            config: Values of a config.json.

        Returns:
            The sizes. Where a key is absent that published files leave out, they are those of transformers' configuration.

        Raises:
            KeyError: when a size is absent.
        """
        text: Mapping[str, Any] = config["text_config"]
        decoder = text.get("model_type", QWEN2)
        num_heads = text["num_attention_heads"]
        attention_bias = bool(text.get("attention_bias", False))
        return cls(
            decoder=decoder,
            vocab_size=text["vocab_size"],
            hidden_size=text["hidden_size"],
            intermediate_size=text["intermediate_size"],
            num_layers=text["num_hidden_layers"],
            num_heads=num_heads,
            num_key_value_heads=text.get("num_key_value_heads") or num_heads,
            head_dim=text.get("head_dim") or (128 if decoder == QWEN3 else text["hidden_size"] // num_heads),
            has_qkv_bias=decoder == QWEN2 or attention_bias,
            has_output_bias=decoder == QWEN3 and attention_bias,
            has_qk_norm=decoder == QWEN3,
            ties_embeddings=ties_embeddings(config),
            tower=_tower(config),
        )


def ties_embeddings(config: Mapping[str, Any]) -> bool:
    """Tells whether the output layer is the embedding: what config.json states at its top, or else inside.

    Published files state nothing at the top, where transformers up to 4.57 looked at the decoder's value and 5 has True.
    """
    stated = config.get("tie_word_embeddings")
    return bool(config["text_config"].get("tie_word_embeddings", False) if stated is None else stated)


def _tower(config: Mapping[str, Any]) -> TowerSizes:
    vision: Mapping[str, Any] = config["vision_config"]
    return TowerSizes(
        depth=vision["num_hidden_layers"],
        hidden_size=vision["hidden_size"],
        num_heads=vision["num_attention_heads"],
        intermediate_size=vision["intermediate_size"],
        num_channels=vision.get("num_channels", 3),
        image_size=side_of(vision.get("image_size", 448)),
        patch_size=side_of(vision.get("patch_size", 14)),
        has_qkv_bias=bool(vision.get("attention_bias", False)),
        has_qk_norm=bool(vision.get("use_qk_norm", False)),
        has_norm_bias=vision.get("norm_type", "layer_norm") == "layer_norm",
        downsample=round(1 / config.get("downsample_ratio", 0.5)),
    )


def side_of(stated: Any) -> int:
    """Returns the side of a square that config.json states as one number or as two equal ones.

    Raises:
        ValueError: when they differ, or there are none.
    """
    sides = stated if isinstance(stated, list | tuple) else [stated]
    if not sides or any(side != sides[0] for side in sides):
        raise ValueError(f"square sizes, not {stated}")
    side: int = sides[0]
    return side
