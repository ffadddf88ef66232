"""Configuration of CogVLM2-Video: the keys of the published `config.json`, checked when it is built."""

from __future__ import annotations

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from cvft.families.cogvlm2_video.tensors import PUBLISHED_SIZES, ROPE_THETA

VISION_SIZES = PUBLISHED_SIZES["vision_config"]


@strict
class CogVLM2VideoVisionConfig(PreTrainedConfig):
    """The EVA2-CLIP-E tower, under the published key names.

    Args:
        hidden_size: Width of the tower.
        intermediate_size: Width of its MLP.
        num_hidden_layers: Number of blocks.
        num_heads: Number of attention heads.
        hidden_act: Activation of its MLP.
        image_size: Side of a preprocessed frame in pixels.
        patch_size: Side of a patch in pixels.
        in_channels: Channels of a frame.
        num_positions: Patches of a frame plus one class token.
        layer_norm_eps: Epsilon of the block norms.
        dropout_prob: Kept because the published file states it; the published tower has no dropout, so only 0.0 is valid.
    """

    model_type = "cogvlm2_video_vision"
    base_config_key = "vision_config"

    hidden_size: int = VISION_SIZES["hidden_size"]
    intermediate_size: int = VISION_SIZES["intermediate_size"]
    num_hidden_layers: int = VISION_SIZES["num_hidden_layers"]
    num_heads: int = VISION_SIZES["num_heads"]
    hidden_act: str = "gelu"
    image_size: int = 224
    patch_size: int = VISION_SIZES["patch_size"]
    in_channels: int = VISION_SIZES["in_channels"]
    num_positions: int = VISION_SIZES["num_positions"]
    layer_norm_eps: float = 1e-6
    dropout_prob: float = 0.0

    def validate_architecture(self) -> None:
        """Checks that the sizes fit each other.

        Raises:
            ValueError: naming the two numbers that do not fit.
        """
        if self.hidden_size % self.num_heads:
            raise ValueError(
                f"vision_config.hidden_size {self.hidden_size} is no multiple of num_heads {self.num_heads}"
            )
        side = self.image_size // self.patch_size
        if self.image_size % self.patch_size or side % 2 or self.num_positions != side * side + 1:
            raise ValueError(
                f"vision_config: image_size {self.image_size} / patch_size {self.patch_size} must be an even whole number "
                f"whose square plus one is num_positions, got {self.num_positions}"
            )
        if self.dropout_prob:
            raise ValueError(f"vision_config.dropout_prob {self.dropout_prob}: the published tower has none, need 0.0")

    @property
    def num_tokens_per_frame(self) -> int:
        """Tokens that one frame takes in the language model: 2x2-pooled patches, boi and eoi."""
        return (self.image_size // self.patch_size // 2) ** 2 + 2


@strict
class CogVLM2VideoConfig(PreTrainedConfig):
    """CogVLM2-Video: a Llama-3 decoder behind an EVA2-CLIP-E tower, under the published key names.

    Args:
        vocab_size: Rows of the embedding and of the output layer.
        hidden_size: Width of the decoder.
        intermediate_size: Width of its MLP, and of the projector's.
        num_hidden_layers: Number of decoder blocks.
        num_attention_heads: Number of query heads.
        num_multi_query_heads: Number of key/value heads (`num_key_value_heads` elsewhere).
        hidden_act: Activation of the decoder's MLP.
        rms_norm_eps: Epsilon of the RMS norms.
        max_position_embeddings: Longest sequence in tokens that the model was trained on.
        initializer_range: Standard deviation of fresh weights.
        use_cache: Whether generation keeps keys and values.
        template_version: Prompt template that the file states ("base" in all published checkpoints).
        tie_word_embeddings: Whether the output layer is the embedding.
        rope_precision: "checkpoint" multiplies position and frequency in the weights' dtype with the checkpoint's own
            table, as the published code does; "fp32" uses an exact fp32 table instead.
        rope_theta: Base of the rotary frequencies, which the exact table is computed from.
        encodes_frames: Whether the vision tower is part of the model. Without it the model takes vision features in place of
            pixel values; projector and frame markers stay.
        vision_config: The tower.
    """

    model_type = "cogvlm2_video"
    sub_configs = {"vision_config": CogVLM2VideoVisionConfig}  # noqa: RUF012 - transformers reads it on the class
    attribute_map = {"num_key_value_heads": "num_multi_query_heads"}  # noqa: RUF012 - as above
    keys_to_ignore_at_inference = ["past_key_values"]  # noqa: RUF012 - as above

    COUNTS: ClassVar[tuple[str, ...]] = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_multi_query_heads",
        "max_position_embeddings",
    )

    vocab_size: int = PUBLISHED_SIZES["vocab_size"]
    hidden_size: int = PUBLISHED_SIZES["hidden_size"]
    intermediate_size: int = PUBLISHED_SIZES["intermediate_size"]
    num_hidden_layers: int = PUBLISHED_SIZES["num_hidden_layers"]
    num_attention_heads: int = PUBLISHED_SIZES["num_attention_heads"]
    num_multi_query_heads: int = PUBLISHED_SIZES["num_multi_query_heads"]
    hidden_act: str = "silu"
    rms_norm_eps: float = 1e-5
    max_position_embeddings: int = 2048
    initializer_range: float = 0.02
    use_cache: bool = True
    bos_token_id: int | None = 128000
    eos_token_id: int | list[int] | None = 128001
    pad_token_id: int | None = 128002
    tie_word_embeddings: bool = False
    template_version: str = "base"
    rope_precision: str = "checkpoint"
    rope_theta: float = ROPE_THETA
    encodes_frames: bool = True
    vision_config: dict[str, Any] | CogVLM2VideoVisionConfig | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if self.vision_config is None:
            self.vision_config = CogVLM2VideoVisionConfig()
        elif isinstance(self.vision_config, dict):
            self.vision_config = CogVLM2VideoVisionConfig(**self.vision_config)
        super().__post_init__(**kwargs)

    def validate_architecture(self) -> None:
        """Checks that the sizes fit each other.

        Raises:
            ValueError: naming the numbers that do not fit.
        """
        for name in CogVLM2VideoConfig.COUNTS:
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} {value!r}: need a positive whole number")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is no multiple of num_attention_heads {self.num_attention_heads}"
            )
        if self.num_attention_heads % self.num_multi_query_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} is no multiple of "
                f"num_multi_query_heads {self.num_multi_query_heads}"
            )
        if self.rope_precision not in ("checkpoint", "fp32"):
            raise ValueError(f"rope_precision {self.rope_precision!r}: need 'checkpoint' or 'fp32'")

    @property
    def vision(self) -> CogVLM2VideoVisionConfig:
        """The tower's configuration; `vision_config` may be given as a dict."""
        assert isinstance(self.vision_config, CogVLM2VideoVisionConfig)
        return self.vision_config

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads
