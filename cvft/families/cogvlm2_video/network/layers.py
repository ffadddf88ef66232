"""The decoder's parts: RMS norm, rotary positions, grouped-query attention, gated MLP, and the block made of them.

hidden_states (B, L, H) in, (B, L, H) out, throughout

B rows, L tokens, H width. Numerics follow the published code: RMS norm multiplies by its weight in fp32, the rotary angles
are computed in the dtype of the checkpoint's frequency table.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from cvft.families.cogvlm2_video.network.configuration import CogVLM2VideoConfig
from cvft.families.network.loss import at_least_fp32


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


TABLE_TOLERANCE, HALF_TABLE_TOLERANCE = 1e-5, 2.0**-7
"""Largest relative difference of a table's entry from its exact value, in full and in half precision."""


def compute_inv_freq(head_dim: int, theta: float) -> Tensor:
    """Returns the (head_dim / 2,) fp32 rotary frequencies of a base."""
    return 1.0 / theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)


class RotaryEmbedding(nn.Module):
    """Cosines and sines of the rotary angles.

    The frequency table is a persistent buffer *of each layer*, because the published checkpoints hold one per layer and
    the model was trained with its rounding: in bf16, position, frequency, product and angle are all bf16.
    """

    inv_freq: Tensor

    def __init__(self, config: CogVLM2VideoConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.theta = config.rope_theta
        self.exact = config.rope_precision == "fp32"
        self.exact_table: Tensor | None = None
        """What rotates instead of the buffer where an exact table is asked for; no buffer, which casts would round."""
        self.register_buffer("inv_freq", compute_inv_freq(self.head_dim, self.theta), persistent=True)

    def forward(self, position_ids: Tensor, *, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Turns (B, L) positions into two (B, 1, L, head_dim / 2) tables of `dtype`."""
        # the table follows the activations: transformers casts parameters when it loads, but leaves buffers as they lie
        inv_freq = self.inv_freq.to(dtype)
        if self.exact:
            inv_freq = self._exact_table().to(position_ids.device)
        angles = (position_ids[..., None].to(inv_freq.dtype) * inv_freq)[:, None]
        return angles.cos().to(dtype), angles.sin().to(dtype)

    def _exact_table(self) -> Tensor:
        if self.exact_table is None:
            computed = compute_inv_freq(self.head_dim, self.theta)
            stored = self.inv_freq.detach().float().cpu()
            # a table of half precision may lie in a buffer of full precision
            is_half = any(torch.equal(stored.to(half).float(), stored) for half in (torch.bfloat16, torch.float16))
            rtol = HALF_TABLE_TOLERANCE if is_half else TABLE_TOLERANCE
            if not torch.allclose(stored, computed, rtol=rtol, atol=1e-7):
                raise ValueError(f"rope_theta {self.theta:g}: the checkpoint's rotary table is of another base")
            self.exact_table = computed
        return self.exact_table


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
