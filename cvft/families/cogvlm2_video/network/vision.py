"""The vision tower: preprocessed frames in, tokens of the language model out.

pixel_values (T, 3, S, S) -> patches + class token (T, P+1, D) -> post-norm blocks -> drop class token
-> 2x2 convolution (T, P/4, D) -> gated projector (T, P/4, H) -> boi | patches | eoi (T, P/4 + 2, H)

T frames (of all clips of a batch, in row order), S image side in pixels, P patches, D tower width, H decoder width.
Attribute names are the published state-dict keys. Source: the published `visual.py`, facts in design and spec; the two
norms of a block are applied to the *output* of the attention and of the MLP, whatever their names say.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from cvft.families.cogvlm2_video.network.configuration import CogVLM2VideoConfig, CogVLM2VideoVisionConfig


class PatchEmbedding(nn.Module):
    """Cuts frames into patches, prepends the class token and adds learned positions."""

    def __init__(self, config: CogVLM2VideoVisionConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(config.in_channels, config.hidden_size, config.patch_size, stride=config.patch_size)
        self.cls_embedding = nn.Parameter(torch.zeros(1, config.hidden_size))
        self.position_embedding = nn.Embedding(config.num_positions, config.hidden_size)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Turns (T, 3, S, S) into (T, P+1, D)."""
        patches = self.proj(pixel_values).flatten(2).transpose(1, 2)
        cls_token = self.cls_embedding.expand(patches.shape[0], 1, -1)
        return torch.cat((cls_token, patches), dim=1) + self.position_embedding.weight


class VisionAttention(nn.Module):
    """Full bidirectional attention over the tokens of one frame."""

    def __init__(self, config: CogVLM2VideoVisionConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.query_key_value = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Keeps (T, P+1, D)."""
        num_frames, num_tokens, width = hidden_states.shape
        qkv = self.query_key_value(hidden_states).view(num_frames, num_tokens, 3, self.num_heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(query, key, value)
        return self.dense(out.transpose(1, 2).reshape(num_frames, num_tokens, width))


class VisionMLP(nn.Module):
    """Two linear layers with the exact GELU between them."""

    def __init__(self, config: CogVLM2VideoVisionConfig) -> None:
        super().__init__()
        self.activation = ACT2FN[config.hidden_act]
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Keeps (T, P+1, D)."""
        return self.fc2(self.activation(self.fc1(hidden_states)))


class VisionLayer(GradientCheckpointingLayer):
    """One block: the residual stream itself is never normalised, the sub-layer outputs are."""

    def __init__(self, config: CogVLM2VideoVisionConfig) -> None:
        super().__init__()
        self.input_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = VisionAttention(config)
        self.mlp = VisionMLP(config)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Keeps (T, P+1, D)."""
        hidden_states = hidden_states + self.input_layernorm(self.attention(hidden_states))
        return hidden_states + self.post_attention_layernorm(self.mlp(hidden_states))


class VisionTransformer(nn.Module):
    """The stack of blocks; there is no final norm."""

    def __init__(self, config: CogVLM2VideoVisionConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(VisionLayer(config) for _ in range(config.num_hidden_layers))

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Keeps (T, P+1, D)."""
        for layer in self.layers:
            hidden_states = layer(hidden_states)
        return hidden_states


class Projector(nn.Module):
    """Gated MLP from the tower's width to the decoder's."""

    def __init__(self, config: CogVLM2VideoConfig) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        self.linear_proj = nn.Linear(config.vision.hidden_size, width, bias=False)
        self.norm1 = nn.LayerNorm(width)  # eps 1e-5 (torch's default), unlike the blocks' 1e-6
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.dense_h_to_4h = nn.Linear(width, inner, bias=False)
        self.dense_4h_to_h = nn.Linear(inner, width, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Turns (T, P/4, D) into (T, P/4, H)."""
        hidden_states = F.gelu(self.norm1(self.linear_proj(features)))
        return self.dense_4h_to_h(F.silu(self.gate_proj(hidden_states)) * self.dense_h_to_4h(hidden_states))


class VisionTower(nn.Module):
    """Tower, pooling convolution, projector and the two frame markers; without the first two where features are given."""

    def __init__(self, config: CogVLM2VideoConfig) -> None:
        super().__init__()
        vision = config.vision
        self.encodes_frames = config.encodes_frames
        if self.encodes_frames:
            self.patch_embedding = PatchEmbedding(vision)
            self.transformer = VisionTransformer(vision)
            self.conv = nn.Conv2d(vision.hidden_size, vision.hidden_size, kernel_size=2, stride=2)
        self.linear_proj = Projector(config)
        self.boi = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.eoi = nn.Parameter(torch.zeros(1, 1, config.hidden_size))

    def encode(self, pixel_values: Tensor) -> Tensor:
        """Runs the tower up to the pooling convolution, the last frozen part of a usual fine-tuning.

        Args:
            pixel_values: (T, 3, S, S) preprocessed frames.

        Returns:
            (T, P/4, D) features.

        Raises:
            ValueError: when the model was loaded without its tower.
        """
        if not self.encodes_frames:
            raise ValueError("the model was loaded without its vision tower: give vision_features, not pixel_values")
        hidden_states = self.transformer(self.patch_embedding(pixel_values))[:, 1:]
        side = int(hidden_states.shape[1] ** 0.5)
        grid = hidden_states.transpose(1, 2).unflatten(2, (side, side))
        return self.conv(grid).flatten(2).transpose(1, 2)

    def project(self, features: Tensor) -> Tensor:
        """Projects pooled features and frames them with boi and eoi.

        Args:
            features: (T, P/4, D) as `encode` returns them.

        Returns:
            (T, P/4 + 2, H) inputs of the language model.
        """
        patches = self.linear_proj(features)
        # the markers belong to no layer, so that a model spread over GPUs may hold them on another one than the projector
        boi, eoi = (marker.to(patches.device).expand(len(patches), -1, -1) for marker in (self.boi, self.eoi))
        return torch.cat((boi, patches, eoi), dim=1)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Turns (T, 3, S, S) into (T, P/4 + 2, H)."""
        return self.project(self.encode(pixel_values))
