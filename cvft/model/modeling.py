"""CogVLM2-Video for causal language modelling, native to transformers 5 and with the published state-dict keys.

input_ids, token_type_ids (B, L) and pixel_values (T, 3, S, S) -> embeddings with the vision tokens written in
-> causal decoder (B, L, H) -> logits (B, K, V)

B rows, L tokens, T frames of all rows in row order, S image side, H width, K kept positions, V vocabulary.
Numerics follow the published code: RMS norm multiplies by its weight in fp32, the rotary angles are computed in the
dtype of the checkpoint's frequency table. Any row of a batch may have its own number of frames, or none.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache, GenerationMixin, PreTrainedModel
from transformers.activations import ACT2FN
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from cvft._autoload import register_with_transformers
from cvft.model.configuration import ROPE_THETA, CogVLM2VideoConfig
from cvft.model.positions import VISION_TYPE, position_ids_from_types
from cvft.model.vision import VisionTower


def at_least_fp32(dtype: torch.dtype) -> torch.dtype:
    """Returns the precision for sums and exponentials: fp32, or the model's own when that is wider."""
    return torch.promote_types(dtype, torch.float32)


class RMSNorm(nn.Module):
    """Root-mean-square norm whose weight is multiplied in fp32, before the cast back (Llama's comes after it)."""

    def __init__(self, hidden_size: int, *, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.eps = eps

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Keeps shape and dtype."""
        wide = at_least_fp32(hidden_states.dtype)
        x = hidden_states.to(wide)
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)
        return (self.weight.to(wide) * x).to(hidden_states.dtype)


def compute_inv_freq(head_dim: int) -> Tensor:
    """Returns the (head_dim / 2,) fp32 rotary frequencies."""
    return 1.0 / ROPE_THETA ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)


class RotaryEmbedding(nn.Module):
    """Cosines and sines of the rotary angles.

    The frequency table is a persistent buffer *of each layer*, because the published checkpoints hold one per layer and
    the model was trained with its rounding: in bf16, position, frequency, product and angle are all bf16.
    """

    inv_freq: Tensor

    def __init__(self, config: CogVLM2VideoConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.exact = config.rope_precision == "fp32"
        self.register_buffer("inv_freq", compute_inv_freq(self.head_dim), persistent=True)

    def forward(self, position_ids: Tensor, *, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Turns (B, L) positions into two (B, 1, L, head_dim / 2) tables of `dtype`."""
        # the table follows the activations: transformers casts parameters when it loads, but leaves buffers as they lie
        inv_freq = self.inv_freq.to(dtype)
        if self.exact:
            inv_freq = compute_inv_freq(self.head_dim).to(position_ids.device)
        angles = (position_ids[..., None].to(inv_freq.dtype) * inv_freq)[:, None]
        return angles.cos().to(dtype), angles.sin().to(dtype)


def apply_rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates the halves of each head, (B, heads, L, head_dim), in the dtype of `x`."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1)


def eager_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """Attention written out, softmax in fp32; (B, heads, L, head_dim) in, (B, L, heads, head_dim) and weights out."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    scores = (query * scaling) @ key.transpose(2, 3)
    if attention_mask is not None:
        scores = scores + attention_mask[..., : key.shape[-2]]
    weights = scores.softmax(dim=-1, dtype=at_least_fp32(scores.dtype)).to(query.dtype)
    return (weights @ value).transpose(1, 2).contiguous(), weights


class Attention(nn.Module):
    """Grouped-query causal attention with one fused query-key-value projection."""

    def __init__(self, config: CogVLM2VideoConfig, *, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.head_dim
        self.scaling = self.head_dim**-0.5
        self.is_causal = True
        self.num_key_value_groups = config.num_attention_heads // config.num_multi_query_heads
        self.split_sizes = [config.hidden_size, *[config.num_multi_query_heads * self.head_dim] * 2]
        self.language_expert_query_key_value = nn.Linear(config.hidden_size, sum(self.split_sizes), bias=False)
        self.language_expert_dense = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.rotary_emb = RotaryEmbedding(config)

    def forward(
        self,
        hidden_states: Tensor,
        *,
        position_ids: Tensor,
        attention_mask: Tensor | None,
        past_key_values: Cache | None,
    ) -> Tensor:
        """Keeps (B, L, H)."""
        qkv = self.language_expert_query_key_value(hidden_states).split(self.split_sizes, dim=-1)
        query, key, value = (part.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for part in qkv)
        cos, sin = self.rotary_emb(position_ids, dtype=query.dtype)
        query, key = apply_rotary(query, cos, sin), apply_rotary(key, cos, sin)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention)
        out, _ = attention(self, query, key, value, attention_mask, dropout=0.0, scaling=self.scaling)
        return self.language_expert_dense(out.flatten(2))


class LanguageMLP(nn.Module):
    """Gated MLP; the published code nests it one level deeper, and so do its keys."""

    def __init__(self, config: CogVLM2VideoConfig) -> None:
        super().__init__()
        self.activation = ACT2FN[config.hidden_act]
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Keeps (B, L, H)."""
        return self.down_proj(self.activation(self.gate_proj(hidden_states)) * self.up_proj(hidden_states))


class DecoderLayer(GradientCheckpointingLayer):
    """One pre-norm Llama block."""

    def __init__(self, config: CogVLM2VideoConfig, *, layer_idx: int) -> None:
        super().__init__()
        self.self_attn = Attention(config, layer_idx=layer_idx)
        self.mlp = nn.ModuleDict({"language_mlp": LanguageMLP(config)})
        self.input_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(
        self,
        hidden_states: Tensor,
        *,
        position_ids: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
    ) -> Tensor:
        """Keeps (B, L, H)."""
        attended = self.self_attn(
            self.input_layernorm(hidden_states),
            position_ids=position_ids,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
        )
        hidden_states = hidden_states + attended
        return hidden_states + self.mlp["language_mlp"](self.post_attention_layernorm(hidden_states))


class CogVLM2VideoPreTrainedModel(PreTrainedModel):
    """What transformers needs to know to load, place, checkpoint and initialise the model."""

    config_class = CogVLM2VideoConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities = ("video", "text")
    supports_gradient_checkpointing = True
    _no_split_modules = ("DecoderLayer", "VisionLayer", "PatchEmbedding")
    _skip_keys_device_placement = ("past_key_values",)
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = False

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        std = self.config.initializer_range
        if isinstance(module, VisionTower):
            nn.init.normal_(module.boi, std=std)
            nn.init.normal_(module.eoi, std=std)
        elif isinstance(module, RotaryEmbedding):
            # a model built on the meta device gets its buffers here
            module.inv_freq.copy_(compute_inv_freq(module.head_dim))


class CogVLM2VideoModel(CogVLM2VideoPreTrainedModel):
    """Embeddings, vision tower and decoder, without the output layer."""

    def __init__(self, config: CogVLM2VideoConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.layers = nn.ModuleList(DecoderLayer(config, layer_idx=i) for i in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.vision = VisionTower(config)
        self.runs_tower_always = False
        """Whether a batch without clips runs the tower too, on an empty frame that adds nothing. Ranks that share the tower's
        weights or sum its gradients talk to each other in its layers: all must pass through them, or the others wait forever."""
        self.gradient_checkpointing = False
        self.post_init()

    def embed(self, input_ids: Tensor, *, token_type_ids: Tensor, vision_embeds: Tensor | None) -> Tensor:
        """Looks up the text and writes the frames over their placeholders.

        Args:
            input_ids: (B, L).
            token_type_ids: (B, L), 1 where a frame's token belongs.
            vision_embeds: (T, tokens per frame, H) of all rows in row order, or None when no row has a clip.

        Returns:
            (B, L, H) embeddings.

        Raises:
            ValueError: when the placeholders and the frames' tokens differ in number.
        """
        inputs_embeds = self.embed_tokens(input_ids)
        is_vision = token_type_ids == VISION_TYPE
        num_places = int(is_vision.sum())
        num_tokens = 0 if vision_embeds is None else vision_embeds.shape[0] * vision_embeds.shape[1]
        if num_places != num_tokens:
            raise ValueError(
                f"vision tokens: got {num_tokens} from the frames, need {num_places} (token_type_ids == 1)"
            )
        if vision_embeds is None:
            return inputs_embeds
        source = vision_embeds.to(inputs_embeds)
        return inputs_embeds.masked_scatter(is_vision[..., None], source)

    def _empty_frame(self) -> Tensor:
        side, boi = self.config.vision_config.image_size, self.vision.boi
        return boi.new_zeros(1, 3, side, side)

    def forward(
        self,
        input_ids: Tensor | None = None,
        *,
        pixel_values: Tensor | None = None,
        vision_features: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> BaseModelOutputWithPast:
        """Runs the decoder over one batch; see `CogVLM2VideoForCausalLM.forward` for the arguments."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("exactly one of input_ids and inputs_embeds is needed")
        tokens = input_ids if inputs_embeds is None else inputs_embeds
        assert tokens is not None
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        num_past = past_key_values.get_seq_length() if past_key_values is not None else 0
        if token_type_ids is None:
            token_type_ids = torch.zeros(tokens.shape[:2], dtype=torch.long, device=tokens.device)
        if position_ids is None:
            if num_past:
                raise ValueError(
                    "position_ids are needed when past_key_values hold tokens: they follow from the whole row"
                )
            flat_mask = attention_mask if attention_mask is not None and attention_mask.dim() == 2 else None
            position_ids = position_ids_from_types(token_type_ids, flat_mask)
        if inputs_embeds is None:
            if pixel_values is not None and vision_features is not None:
                raise ValueError("at most one of pixel_values and vision_features can be given")
            if pixel_values is not None:
                vision_features = self.vision.encode(pixel_values.to(self.vision.boi.dtype))
            is_empty_frame = vision_features is None and self.runs_tower_always
            if is_empty_frame:
                vision_features = self.vision.encode(self._empty_frame())
            vision_embeds = None if vision_features is None else self.vision.project(vision_features)
            shown = None if is_empty_frame else vision_embeds
            inputs_embeds = self.embed(tokens, token_type_ids=token_type_ids, vision_embeds=shown)
            if is_empty_frame:
                assert vision_embeds is not None
                inputs_embeds = inputs_embeds + 0 * vision_embeds.sum()

        # position_ids stay out of the mask: transformers would take positions that repeat (the patches of a frame)
        # for packed sequences and cut the row apart
        mask = create_causal_mask(
            config=self.config,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
        )
        hidden_states = inputs_embeds
        all_hidden_states = [hidden_states]
        for layer in self.layers:
            hidden_states = layer(
                hidden_states, position_ids=position_ids, attention_mask=mask, past_key_values=past_key_values
            )
            if output_hidden_states:
                all_hidden_states.append(hidden_states)
        last_hidden_state = self.norm(hidden_states)
        return BaseModelOutputWithPast(
            last_hidden_state=last_hidden_state,
            past_key_values=past_key_values,
            hidden_states=(*all_hidden_states[:-1], last_hidden_state) if output_hidden_states else None,
        )


class CogVLM2VideoForCausalLM(CogVLM2VideoPreTrainedModel, GenerationMixin):
    """CogVLM2-Video with its output layer: training, scoring and generation."""

    def __init__(self, config: CogVLM2VideoConfig) -> None:
        super().__init__(config)
        self.model = CogVLM2VideoModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        vision_features: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        num_items_in_batch: Tensor | int | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> CausalLMOutputWithPast:
        """Scores a batch of rows.

        Args:
            input_ids: (B, L) token ids; the ids under vision tokens do not matter.
            pixel_values: (T, 3, S, S) preprocessed frames of all rows, in row order.
            vision_features: (T, P/4, D) outputs of `VisionTower.encode`, instead of pixel_values.
            token_type_ids: (B, L) 1 for vision tokens, 0 for the rest; None means text only.
            attention_mask: (B, L) 0 for padding, or a (B, 1, L, L) additive mask of the caller's own.
            position_ids: (B, L) rotary positions; None derives them from token types and padding.
            past_key_values: Cache of the tokens before; position_ids are then needed.
            inputs_embeds: (B, L, H) instead of input_ids and frames.
            labels: (B, L) ids to predict, -100 for none.
            use_cache: Whether to return a cache.
            logits_to_keep: Last n positions (0: all), or a 1-D index or boolean mask of positions.
            num_items_in_batch: Number of label tokens of the whole optimizer step; the loss is the sum over this batch
                divided by it. None divides by this batch's own number.
            output_hidden_states: Whether to return what goes into each layer and the final normed states.
            output_attentions: Only False or None: the fused kernels keep no weights.
            return_dict: Accepted because peft passes it; the return value is always a `ModelOutput`.

        Returns:
            Loss (when labels are given), logits (B, K, V) in the model's dtype, cache, hidden states when asked for.

        Raises:
            ValueError: when inputs do not fit each other, or for `output_attentions=True` or `return_dict=False`.
        """
        if output_attentions or return_dict is False:
            raise ValueError("output_attentions=True and return_dict=False are not supported")
        outputs = self.model(
            input_ids=input_ids,
            pixel_values=pixel_values,
            vision_features=vision_features,
            token_type_ids=token_type_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            output_hidden_states=output_hidden_states,
        )
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, keep])
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits, labels=labels, vocab_size=self.config.vocab_size, num_items_in_batch=num_items_in_batch
            )
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
        )

    # What generation needs to know beyond the default: positions follow from token types, the id under a vision token is
    # the padding id, and new tokens are always text.

    def _prepare_position_ids_for_generation(self, inputs_tensor: Tensor, model_kwargs: dict[str, Any]) -> Tensor:
        ids = model_kwargs.get("input_ids", inputs_tensor)
        types = model_kwargs.get("token_type_ids")
        types = torch.zeros(ids.shape[:2], dtype=torch.long, device=ids.device) if types is None else types
        return position_ids_from_types(types, model_kwargs.get("attention_mask"))

    def _prepare_attention_mask_for_generation(
        self, inputs_tensor: Tensor, generation_config: Any, model_kwargs: dict[str, Any]
    ) -> Tensor:
        types = model_kwargs.get("token_type_ids")
        if types is None or inputs_tensor.dim() != 2:
            return super()._prepare_attention_mask_for_generation(inputs_tensor, generation_config, model_kwargs)
        is_text_padding = (inputs_tensor == self.config.pad_token_id) & (types != VISION_TYPE)
        return (~is_text_padding).long()

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, *, is_first_iteration: bool = False, use_cache: bool = True, **kwargs: Any
    ) -> dict[str, Any]:
        """Slices what one generation step feeds; frames are fed with the prompt only."""
        if use_cache and not is_first_iteration:
            kwargs.update(pixel_values=None, vision_features=None)
        return super().prepare_inputs_for_generation(
            input_ids, is_first_iteration=is_first_iteration, use_cache=use_cache, **kwargs
        )

    def _update_model_kwargs_for_generation(
        self, outputs: Any, model_kwargs: dict[str, Any], is_encoder_decoder: bool = False, num_new_tokens: int = 1
    ) -> dict[str, Any]:
        types = model_kwargs.get("token_type_ids")
        updated = super()._update_model_kwargs_for_generation(outputs, model_kwargs, is_encoder_decoder, num_new_tokens)
        if types is not None:
            updated["token_type_ids"] = torch.cat((types, types.new_zeros(types.shape[0], num_new_tokens)), dim=1)
        return updated


# for whoever imports this module before transformers: the registration had to wait for the class above
register_with_transformers()
