"""CogVLM2-Video for causal language modelling, native to transformers 5 and with the published state-dict keys.

input_ids, token_type_ids (B, L) and pixel_values (T, 3, S, S) -> embeddings with the vision tokens written in
-> causal decoder (B, L, H) -> logits (B, K, V)

B rows, L tokens, T frames of all rows in row order, S image side, H width, K kept positions, V vocabulary.
Any row of a batch may have its own number of frames, or none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache, GenerationMixin, PreTrainedModel
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from cvft.families.cogvlm2_video.network.configuration import CogVLM2VideoConfig
from cvft.families.cogvlm2_video.network.layers import DecoderLayer, RMSNorm, RotaryEmbedding, compute_inv_freq
from cvft.families.cogvlm2_video.network.positions import VISION_TYPE, position_ids_from_types
from cvft.families.cogvlm2_video.network.vision import VisionTower
from cvft.families.cogvlm2_video.tensors import TOWER_PARTS
from cvft.families.family import IGNORED_LABEL
from cvft.families.network.grouping import group_attention_mask
from cvft.families.network.loss import label_loss


class CogVLM2VideoPreTrainedModel(PreTrainedModel):
    """What transformers needs to know to load, place, checkpoint and initialise the model."""

    config_class = CogVLM2VideoConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities = ("video", "text")
    supports_gradient_checkpointing = True
    _no_split_modules = ("DecoderLayer", "VisionLayer", "PatchEmbedding", "Projector")
    _skip_keys_device_placement = ("past_key_values",)
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = False

    @property
    def device(self) -> torch.device:
        """Where batches go: where the decoder is, even when the embedding, which comes first, stays on the host."""
        return next(
            module for module in self.modules() if isinstance(module, DecoderLayer)
        ).input_layernorm.weight.device

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        std = self.config.initializer_range
        if isinstance(module, VisionTower):
            nn.init.normal_(module.boi, std=std)
            nn.init.normal_(module.eoi, std=std)
        elif isinstance(module, RotaryEmbedding):
            # a model built on the meta device gets its buffers here
            module.inv_freq.copy_(compute_inv_freq(module.head_dim, module.theta))


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
        is_vision = (token_type_ids == VISION_TYPE).to(inputs_embeds.device)
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

    def _encode_clips(self, pixel_values: Tensor, token_type_ids: Tensor) -> Tensor:
        """Runs the tower clip by clip: its results are then the same bits whatever shares a batch with a clip."""
        pixel_values = pixel_values.to(self.vision.boi.dtype)
        num_places = (token_type_ids == VISION_TYPE).sum(dim=1) // self.config.vision.num_tokens_per_frame
        frames_per_clip = [count for count in num_places.tolist() if count]
        if sum(frames_per_clip) != len(pixel_values):
            frames_per_clip = [len(pixel_values)]  # `embed` says what is wrong
        clips = pixel_values.split(frames_per_clip)
        if any(parameter.requires_grad for parameter in self.vision.parameters()):
            return torch.cat([self.vision.encode(clip) for clip in clips])
        # a frozen tower computes in training what it computes in evaluation: autocast would make its norms fp32 on a GPU
        with torch.autocast(pixel_values.device.type, enabled=False):
            return torch.cat([self.vision.encode(clip) for clip in clips])

    def _empty_features(self) -> Tensor:
        """Features of a frame that nobody sees, for ranks that must pass through the tower's layers."""
        vision, boi = self.config.vision, self.vision.boi
        if self.vision.encodes_frames:
            return self.vision.encode(boi.new_zeros(1, 3, vision.image_size, vision.image_size))
        return boi.new_zeros(1, vision.num_tokens_per_frame - 2, vision.hidden_size)

    def _group_mask(self, segment_ids: Tensor, *, dtype: torch.dtype) -> Tensor:
        kernel = self.config._attn_implementation
        if kernel not in ("sdpa", "eager"):
            raise ValueError(f"segment_ids: attention {kernel!r} takes no mask of ours, need 'sdpa' or 'eager'")
        return group_attention_mask(segment_ids, additive_dtype=dtype if kernel == "eager" else None)

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
        segment_ids: Tensor | None = None,
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
        if segment_ids is not None and (position_ids is None or past_key_values is not None):
            raise ValueError("segment_ids need position_ids, which restart after the prefix, and no cache")
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
                vision_features = self._encode_clips(pixel_values, token_type_ids)
            is_empty_frame = vision_features is None and self.runs_tower_always
            if is_empty_frame:
                vision_features = self._empty_features()
            if vision_features is not None:
                vision_features = vision_features.to(self.vision.boi.dtype)
            vision_embeds = None if vision_features is None else self.vision.project(vision_features)
            shown = None if is_empty_frame else vision_embeds
            inputs_embeds = self.embed(tokens, token_type_ids=token_type_ids, vision_embeds=shown)
            if is_empty_frame:
                assert vision_embeds is not None
                inputs_embeds = inputs_embeds + 0 * vision_embeds.sum()

        if segment_ids is not None:
            mask = self._group_mask(segment_ids, dtype=inputs_embeds.dtype)
        else:
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


@dataclass
class CogVLM2VideoOutput(CausalLMOutputWithPast):
    """Outputs of `CogVLM2VideoForCausalLM`.

    Args:
        num_right: Number of label tokens that are the likeliest ones; with `label_logits_only`.
    """

    num_right: Tensor | None = None


class CogVLM2VideoForCausalLM(CogVLM2VideoPreTrainedModel, GenerationMixin):
    """CogVLM2-Video with its output layer: training, scoring and generation."""

    _tied_weights_keys: ClassVar[dict[str, str]] = {"lm_head.weight": "model.embed_tokens.weight"}
    """What is one tensor where `tie_word_embeddings` says so."""

    def __init__(self, config: CogVLM2VideoConfig) -> None:
        super().__init__(config)
        self.model = CogVLM2VideoModel(config)
        if not config.encodes_frames:
            self._keys_to_ignore_on_load_unexpected = [rf"model\.vision\.({'|'.join(TOWER_PARTS)})\."]
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
        segment_ids: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        label_logits_only: bool = False,
        num_items_in_batch: Tensor | int | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> CogVLM2VideoOutput:
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
            segment_ids: (B, L) 0 for a prefix that several questions share, n for the n-th of them, -1 for padding; None
                for one question per row. Takes the place of attention_mask.
            use_cache: Whether to return a cache.
            logits_to_keep: Last n positions (0: all), or a 1-D index or boolean mask of positions.
            label_logits_only: Whether to compute the logits of the label tokens only, and return none of them.
            num_items_in_batch: Number of label tokens of the whole optimizer step; the loss is the sum over this batch
                divided by it. None divides by this batch's own number.
            output_hidden_states: Whether to return what goes into each layer and the final normed states.
            output_attentions: Only False or None: the fused kernels keep no weights.
            return_dict: Accepted because peft passes it; the return value is always a `ModelOutput`.

        Returns:
            Loss (when labels are given), logits (B, K, V) in the model's dtype unless only those of labels are computed,
            cache, hidden states when asked for.

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
            segment_ids=segment_ids,
            use_cache=use_cache,
            output_hidden_states=output_hidden_states,
        )
        if label_logits_only:
            if labels is None:
                raise ValueError("label_logits_only needs labels")
            nll, num_right = label_loss(outputs.last_hidden_state, labels=labels, lm_head=self.lm_head)
            num_items = (labels[:, 1:] != IGNORED_LABEL).sum() if num_items_in_batch is None else num_items_in_batch
            return CogVLM2VideoOutput(
                loss=nll / num_items,
                num_right=num_right,
                past_key_values=outputs.past_key_values,
                hidden_states=outputs.hidden_states,
            )
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, keep])
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits, labels=labels, vocab_size=self.config.vocab_size, num_items_in_batch=num_items_in_batch
            )
        return CogVLM2VideoOutput(
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
