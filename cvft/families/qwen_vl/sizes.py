"""Sizes of a model that decide the shapes of its tensors, read from config.json once. No torch.

config.json, with the decoder's keys in `text_config` or, as in Qwen2.5-VL's published ones, beside `vision_config` -> `Sizes`
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

QWEN2_5_VL = "qwen2_5_vl"
QWEN3_VL = "qwen3_vl"
QWEN3_VL_MOE = "qwen3_vl_moe"
QWEN3_5 = "qwen3_5"
QWEN3_5_MOE = "qwen3_5_moe"
MODEL_TYPES = (QWEN2_5_VL, QWEN3_VL, QWEN3_VL_MOE, QWEN3_5, QWEN3_5_MOE)
"""`model_type` entries of config.json. Source: the published checkpoints and transformers."""

FULL_ATTENTION, LINEAR_ATTENTION = "full_attention", "linear_attention"
"""Kinds of a decoder block's token mixer, as `layer_types` of a config.json calls them."""


@dataclass(frozen=True)
class TowerSizes:
    """Sizes of the vision tower with its mergers.

    Args:
        depth: Number of blocks.
        hidden_size: Width.
        intermediate_size: Width of a block's MLP.
        num_heads: Number of attention heads.
        in_channels: Channels of a frame.
        patch_size: Side of a patch in pixels.
        temporal_patch_size: Frames that one patch spans.
        spatial_merge_size: Patches along the side of the square that becomes one token.
        out_hidden_size: Width of a token, the decoder's.
        has_gated_mlp: Whether MLPs are gated and norms have no bias, as in Qwen2.5-VL.
        num_positions: Rows of the learned position table; 0 for none.
        deepstack_layers: Blocks whose output goes to the decoder through a merger of its own.
        window_size: Side in pixels of the windows that blocks without full attention see; 0 where all see the whole frame.
        full_attention_layers: Blocks that see whole frames where others see windows.
    """

    depth: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    in_channels: int
    patch_size: int
    temporal_patch_size: int
    spatial_merge_size: int
    out_hidden_size: int
    has_gated_mlp: bool
    num_positions: int = 0
    deepstack_layers: tuple[int, ...] = ()
    window_size: int = 0
    full_attention_layers: tuple[int, ...] = ()

    @property
    def patch_values(self) -> int:
        """Numbers of a patch: channels, frames and pixels."""
        return self.in_channels * self.temporal_patch_size * self.patch_size**2

    @property
    def patches_per_token(self) -> int:
        """Patches that become one token."""
        return self.spatial_merge_size**2

    @property
    def merged_size(self) -> int:
        """Width of the patches of one token side by side."""
        return self.hidden_size * self.patches_per_token

    @property
    def num_levels(self) -> int:
        """Tensors per token that the tower hands to the decoder: its last output, and one per deep block."""
        return 1 + len(self.deepstack_layers)


@dataclass(frozen=True)
class DeltaNetSizes:
    """Sizes of the gated-delta-net blocks, the recurrent ones of a hybrid decoder.

    Args:
        key_head_dim: Width of a key head.
        value_head_dim: Width of a value head.
        num_key_heads: Number of key heads.
        num_value_heads: Number of value heads.
        kernel_size: Tokens that the convolution before the recurrence sees.
    """

    key_head_dim: int
    value_head_dim: int
    num_key_heads: int
    num_value_heads: int
    kernel_size: int

    @property
    def key_width(self) -> int:
        """Width of all keys of a token."""
        return self.key_head_dim * self.num_key_heads

    @property
    def value_width(self) -> int:
        """Width of all values of a token."""
        return self.value_head_dim * self.num_value_heads

    @property
    def qkv_width(self) -> int:
        """Width of queries, keys and values side by side."""
        return 2 * self.key_width + self.value_width


@dataclass(frozen=True)
class ExpertSizes:
    """Sizes of the blocks whose MLP is a choice among experts.

    Args:
        num_experts: Number of experts.
        num_chosen: Experts that each token passes through.
        intermediate_size: Width of an expert.
        shared_size: Width of the expert that every token passes through; 0 for none.
        dense_layers: Decoder blocks with one MLP for all tokens.
    """

    num_experts: int
    num_chosen: int
    intermediate_size: int
    shared_size: int = 0
    dense_layers: tuple[int, ...] = ()


@dataclass(frozen=True)
class Sizes:
    """Sizes of a whole model.

    Args:
        model_type: Entry of config.json; one of `MODEL_TYPES`.
        vocab_size: Rows of the embedding and of the output layer.
        hidden_size: Width of the decoder.
        intermediate_size: Width of its MLP; 0 where all of them are experts.
        num_heads: Number of query heads.
        num_key_value_heads: Number of key and value heads.
        head_dim: Width of a head.
        layer_types: Kind of each decoder block's token mixer.
        has_qkv_bias: Whether queries, keys and values have a bias.
        has_output_bias: Whether the layer after attention has one.
        has_qk_norm: Whether queries and keys pass through norms.
        has_output_gate: Whether attention's output is gated, by what `q_proj` makes besides the queries.
        ties_embeddings: Whether the output layer is the embedding; it is not stored then.
        tower: The vision tower.
        delta_net: Sizes of the recurrent blocks, or None where there are none.
        experts: Sizes of the experts, or None for a dense model.
    """

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_key_value_heads: int
    head_dim: int
    layer_types: tuple[str, ...]
    has_qkv_bias: bool
    has_output_bias: bool
    has_qk_norm: bool
    has_output_gate: bool
    ties_embeddings: bool
    tower: TowerSizes
    delta_net: DeltaNetSizes | None = None
    experts: ExpertSizes | None = None

    @property
    def num_layers(self) -> int:
        """Number of decoder blocks."""
        return len(self.layer_types)

    @property
    def query_width(self) -> int:
        """Width of all queries of a token."""
        return self.num_heads * self.head_dim

    @property
    def key_value_width(self) -> int:
        """Width of all keys, and of all values, of a token."""
        return self.num_key_value_heads * self.head_dim

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Reads the sizes.

        Args:
            config: Values of a config.json whose `model_type` is one of `MODEL_TYPES`.

        Returns:
            The sizes. Where a key is absent that published files leave out, they are those of transformers' configuration.

        Raises:
            KeyError: when a size is absent.
        """
        model_type = config["model_type"]
        text = text_values(config)
        is_first = model_type == QWEN2_5_VL
        is_hybrid = model_type in (QWEN3_5, QWEN3_5_MOE)
        attention_bias = bool(text.get("attention_bias", False))
        num_heads = text["num_attention_heads"]
        has_moe = model_type in (QWEN3_VL_MOE, QWEN3_5_MOE)
        return cls(
            model_type=model_type,
            vocab_size=text["vocab_size"],
            hidden_size=text["hidden_size"],
            intermediate_size=text.get("intermediate_size", 0) if has_moe else text["intermediate_size"],
            num_heads=num_heads,
            num_key_value_heads=text.get("num_key_value_heads") or num_heads,
            head_dim=(None if is_first else text.get("head_dim")) or text["hidden_size"] // num_heads,
            layer_types=_layer_types(text, is_hybrid=is_hybrid),
            has_qkv_bias=is_first or attention_bias,
            has_output_bias=attention_bias and not is_first,
            has_qk_norm=not is_first,
            has_output_gate=is_hybrid,
            ties_embeddings=_ties_embeddings(config, text),
            tower=_tower(config["vision_config"], model_type),
            delta_net=_delta_net(text) if is_hybrid else None,
            experts=_experts(text) if has_moe else None,
        )


def text_values(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the decoder's values of a config.json: those of `text_config`, or where there is none all of them.

    Args:
        config: Values of a config.json. Source of both forms: the published files; transformers reads both.
    """
    text = config.get("text_config")
    return config if text is None else text


def _ties_embeddings(config: Mapping[str, Any], text: Mapping[str, Any]) -> bool:
    """Source: transformers' configurations. The outer value counts; files of Qwen2.5-VL before version 5 have it inside."""
    inside = config["model_type"] == QWEN2_5_VL and text.get("tie_word_embeddings", False)
    return bool(config.get("tie_word_embeddings", False) or inside)


def _layer_types(text: Mapping[str, Any], *, is_hybrid: bool) -> tuple[str, ...]:
    num_layers: int = text["num_hidden_layers"]
    if not is_hybrid:
        return (FULL_ATTENTION,) * num_layers
    if stated := text.get("layer_types"):
        return tuple(stated)
    interval: int = text.get("full_attention_interval", 4)
    return tuple(LINEAR_ATTENTION if (number + 1) % interval else FULL_ATTENTION for number in range(num_layers))


def _tower(vision: Mapping[str, Any], model_type: str) -> TowerSizes:
    is_first = model_type == QWEN2_5_VL
    has_deepstack = model_type in (QWEN3_VL, QWEN3_VL_MOE)
    return TowerSizes(
        depth=vision["depth"],
        hidden_size=vision["hidden_size"],
        intermediate_size=vision["intermediate_size"],
        num_heads=vision["num_heads"],
        in_channels=vision.get(
            "in_channels", 3
        ),  # published files of Qwen2.5-VL call it `in_chans`, which nobody reads
        patch_size=vision["patch_size"],
        temporal_patch_size=vision.get("temporal_patch_size", 2),
        spatial_merge_size=vision["spatial_merge_size"],
        out_hidden_size=vision["out_hidden_size"],
        has_gated_mlp=is_first,
        num_positions=0 if is_first else vision["num_position_embeddings"],
        deepstack_layers=tuple(vision["deepstack_visual_indexes"]) if has_deepstack else (),
        window_size=vision["window_size"] if is_first else 0,
        full_attention_layers=tuple(vision["fullatt_block_indexes"]) if is_first else (),
    )


def _delta_net(text: Mapping[str, Any]) -> DeltaNetSizes:
    return DeltaNetSizes(
        key_head_dim=text["linear_key_head_dim"],
        value_head_dim=text["linear_value_head_dim"],
        num_key_heads=text["linear_num_key_heads"],
        num_value_heads=text["linear_num_value_heads"],
        kernel_size=text["linear_conv_kernel_dim"],
    )


def _experts(text: Mapping[str, Any]) -> ExpertSizes:
    num_experts = text["num_experts" if "num_experts" in text else "num_local_experts"]  # what transformers 5 saves
    step = text.get("decoder_sparse_step") or 1
    dense = set(text.get("mlp_only_layers") or ())
    dense |= {number for number in range(text["num_hidden_layers"]) if (number + 1) % step}
    return ExpertSizes(
        num_experts=num_experts,
        num_chosen=text["num_experts_per_tok"],
        intermediate_size=text["moe_intermediate_size"],
        shared_size=text.get("shared_expert_intermediate_size") or 0,
        dense_layers=tuple(sorted(dense)),
    )
