"""The tiny Qwen3-VL: its sizes, how its rows are written, and how it is run in pre-training.

A clip of the world becomes temporal grids of two frames, half a second each, of 2x2 tokens: one for each cell. What two frames
show may differ, so the tower is taught to read the second one; `FPS` is such that every second of the world is the second
frame of a grid.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, Qwen3VLForConditionalGeneration
from transformers.models.qwen3_vl import modeling_qwen3_vl as published

from cvft.data.video.sample import Sampling, choose_frames
from cvft.families.grid import Grid
from cvft.families.network.positions import row_positions
from cvft.families.qwen_vl.layout import STYLES, ClipLayout, build_layout
from cvft.families.qwen_vl.norms import HALF_NORM
from cvft.families.qwen_vl.times import shown_seconds
from cvft.families.qwen_vl.tokenizer import PADDING, TURN_END, TURN_START, SpecialTokens
from cvft.families.text_encoder import TextEncoder
from cvft.tiny.architecture import ClipPrefix, Writing
from cvft.tiny.checkpoint_files import write_json
from cvft.tiny.qwen3_vl_tokenizer import (
    MAX_TOKENS,
    VOCAB_SIZE,
    as_fast_tokenizer,
    build_qwen3_vl_tokenizer,
    id_of,
    save_qwen3_vl_tokenizer,
)
from cvft.tiny.world import CLIP_FPS, MAX_SECONDS, NUM_CELLS, Look

FPS = 4.0
"""Frames per second that the model sees: two frames make a temporal grid."""
SAMPLING = Sampling("fps", max_frames=768, fps=FPS, min_frames=4)


def chosen_frames(num_seconds: int) -> list[int]:
    """Returns the numbers of the frames that the model sees of a clip that `world.render_clip` draws."""
    times_s = np.arange(CLIP_FPS * (num_seconds - 1) + 3, dtype=np.float32) / np.float32(CLIP_FPS)
    return choose_frames(times_s, avg_fps=CLIP_FPS, sampling=SAMPLING)


PATCH_PX, MERGE, TEMPORAL_PATCH = 16, 2, 2
"""Source: config.json of the published checkpoints."""
SIDE_PX = 64
"""Two tokens of two patches: what `video.max_frame_tokens: 4` makes of a square clip."""

TINY_CONFIG: dict[str, Any] = {
    "architectures": ["Qwen3VLForConditionalGeneration"],
    "image_token_id": id_of("<|image_pad|>"),
    "model_type": "qwen3_vl",
    "text_config": {
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": id_of(PADDING),
        "dtype": "float32",
        "eos_token_id": id_of(TURN_END),
        "head_dim": 32,
        "hidden_act": "silu",
        "hidden_size": 128,
        "initializer_range": 0.02,
        "intermediate_size": 352,
        "max_position_embeddings": MAX_TOKENS,
        "model_type": "qwen3_vl_text",
        "num_attention_heads": 4,
        "num_hidden_layers": 5,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-06,
        "rope_scaling": {"mrope_interleaved": True, "mrope_section": [6, 5, 5], "rope_type": "default"},
        "rope_theta": 500000,
        "use_cache": True,
        "vocab_size": VOCAB_SIZE,
    },
    "tie_word_embeddings": False,
    "transformers_version": "4.57.0.dev0",
    "video_token_id": id_of("<|video_pad|>"),
    "vision_config": {
        "deepstack_visual_indexes": [0, 1],
        "depth": 3,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_size": 64,
        "in_channels": 3,
        "initializer_range": 0.02,
        "intermediate_size": 176,
        "model_type": "qwen3_vl",
        "num_heads": 4,
        "num_position_embeddings": 16,
        "out_hidden_size": 128,
        "patch_size": PATCH_PX,
        "spatial_merge_size": MERGE,
        "temporal_patch_size": TEMPORAL_PATCH,
    },
    "vision_end_token_id": id_of("<|vision_end|>"),
    "vision_start_token_id": id_of("<|vision_start|>"),
}
"""config.json: the published keys with a tiny model's values."""

GENERATION_CONFIG: dict[str, Any] = {
    "bos_token_id": id_of(PADDING),
    "pad_token_id": id_of(PADDING),
    "eos_token_id": [id_of(TURN_END), id_of(PADDING)],
    "do_sample": False,
    "transformers_version": "4.57.0.dev0",
}

_FRAMES: dict[str, Any] = {
    "do_convert_rgb": True,
    "image_mean": list(HALF_NORM.mean),
    "image_std": list(HALF_NORM.std),
    "merge_size": MERGE,
    "patch_size": PATCH_PX,
    "processor_class": "Qwen3VLProcessor",
    "size": {"longest_edge": SIDE_PX**2, "shortest_edge": SIDE_PX**2},
    "temporal_patch_size": TEMPORAL_PATCH,
}
PROCESSOR_FILES: dict[str, dict[str, Any]] = {
    "preprocessor_config.json": {**_FRAMES, "image_processor_type": "Qwen2VLImageProcessorFast"},
    "video_preprocessor_config.json": {
        **_FRAMES,
        "fps": FPS,
        # a budget for the whole clip: that of the longest one
        "size": {"longest_edge": SIDE_PX**2 * len(chosen_frames(MAX_SECONDS)), "shortest_edge": SIDE_PX**2},
        "video_processor_type": "Qwen3VLVideoProcessor",
    },
    "chat_template.json": {
        "chat_template": (
            "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\n' }}"
            "{%- if message.content is string %}{{- message.content }}{%- else %}"
            "{%- for part in message.content %}"
            "{%- if part.type == 'image' %}{{- '<|vision_start|><|image_pad|><|vision_end|>' }}"
            "{%- elif part.type == 'video' %}{{- '<|vision_start|><|video_pad|><|vision_end|>' }}"
            "{%- elif 'text' in part %}{{- part.text }}{%- endif %}"
            "{%- endfor %}{%- endif %}{{- '<|im_end|>\n' }}{%- endfor %}"
            "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
        )
    },
}
"""What transformers' own processor reads: the published keys, and of the published chat template what has no tools."""

SPECIAL = SpecialTokens(
    turn_start=id_of(TURN_START),
    turn_end=id_of(TURN_END),
    padding=id_of(PADDING),
    vision_start=id_of("<|vision_start|>"),
    vision_end=id_of("<|vision_end|>"),
    video=id_of("<|video_pad|>"),
    image=id_of("<|image_pad|>"),
)


class Qwen3VLWriting:
    """Rows as the family lays them out; see `cvft.tiny.architecture.Writing`.

    Args:
        tokenizer: The tiny tokenizer.
    """

    block_tokens = 22
    stop_id = SPECIAL.turn_end
    fill_id = SPECIAL.padding

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = as_fast_tokenizer(tokenizer)
        self._encode = TextEncoder(Tokenizer.from_str(tokenizer.to_str()))

    def _lay_out(self, num_seconds: int, question: str) -> tuple[list[int], list[int], int, Grid]:
        frames = chosen_frames(num_seconds)
        grid = Grid(len(frames) // TEMPORAL_PATCH, SIDE_PX // PATCH_PX, SIDE_PX // PATCH_PX, MERGE)
        seconds = shown_seconds([frame / CLIP_FPS for frame in frames], temporal_patch=TEMPORAL_PATCH)
        style = STYLES["qwen3_vl"]
        row = build_layout(
            self._encode, style=style, special=SPECIAL, clips=[ClipLayout(grid, seconds)], query=question, response=None
        )
        return row.input_ids, row.token_type_ids, row.num_prefix_tokens, grid

    def prefix(self, num_seconds: int) -> ClipPrefix:
        """Writes a clip; the tag behind a temporal grid is the first that can tell what all of it shows."""
        ids, types, num_prefix, grid = self._lay_out(num_seconds, "")
        ids, types = ids[:num_prefix], types[:num_prefix]
        places = [place for place, token in enumerate(ids) if token == SPECIAL.vision_end]
        return ClipPrefix(ids, types, row_positions(types, grids=[grid]), places)

    def prompt(self, question: str) -> list[int]:
        """Writes a question and opens the turn of its answer."""
        ids, _, num_prefix, _ = self._lay_out(2, question)
        return ids[num_prefix:]


class TinyQwen3VL:
    """See `cvft.tiny.architecture.Architecture`.

    Args:
        seed: Seed of the tokenizer's text; the weights are drawn from torch's own.
    """

    name = "qwen3_vl"
    look = Look(SIDE_PX, HALF_NORM.mean, HALF_NORM.std)
    frames_per_step = TEMPORAL_PATCH

    def __init__(self, *, seed: int) -> None:
        self._tokenizer = build_qwen3_vl_tokenizer(seed=seed)
        self.writing: Writing = Qwen3VLWriting(self._tokenizer)
        config = AutoConfig.for_model(**TINY_CONFIG)
        self.model: Any = Qwen3VLForConditionalGeneration(config)
        # the fused attention of torch is slow in bf16 on CPU with a mask
        self.model.set_attn_implementation("eager")
        grid = torch.tensor([[1, SIDE_PX // PATCH_PX, SIDE_PX // PATCH_PX]])
        side = self.model.model.visual.num_grid_per_side
        # a frame has as many patches as there are learned positions: nothing is interpolated
        self._places, weights = published.get_vision_interpolation_indices_and_weights(
            grid, num_grid_per_side=side, mode="bilinear", align_corners=True, spatial_merge_size=MERGE, kwargs={}
        )
        self._place_weights = weights
        self._patch_positions = published.get_vision_position_ids(grid, MERGE, kwargs={})

    def frame_seconds(self, num_seconds: int) -> np.ndarray:
        """The seconds that frames around `FPS` show: each begins half a second before its number."""
        return (np.array(chosen_frames(num_seconds)) + CLIP_FPS // 2) // CLIP_FPS

    def tower_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Tower and all mergers."""
        return list(self.model.model.visual.named_parameters())

    def _encode(self, pixels: Tensor) -> list[Tensor]:
        """Encodes grids (N, 2, 3, S, S) to (N, 4, H) per level; all at once, as they are of one size."""
        visual = self.model.model.visual
        num_grids, tokens = len(pixels), SIDE_PX // PATCH_PX // MERGE
        split = pixels.reshape(num_grids, TEMPORAL_PATCH, 3, tokens, MERGE, PATCH_PX, tokens, MERGE, PATCH_PX)
        patches = split.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(num_grids, (tokens * MERGE) ** 2, -1)
        embed = visual.patch_embed.proj
        states = F.linear(patches, embed.weight.flatten(1), embed.bias)
        states = states + (visual.pos_embed(self._places) * self._place_weights[:, :, None]).sum(1)
        cos, sin = visual.rotary_pos_emb(states, self._patch_positions)
        levels = []
        for number, block in enumerate(visual.blocks):
            attention = block.attn
            qkv = attention.qkv(block.norm1(states)).unflatten(-1, (3, attention.num_heads, -1))
            query, key, value = qkv.unbind(2)
            query, key = published.apply_rotary_pos_emb_vision(query, key, cos, sin)
            mixed = F.scaled_dot_product_attention(*(part.transpose(1, 2) for part in (query, key, value)))
            states = states + attention.proj(mixed.transpose(1, 2).flatten(2))
            states = states + block.mlp(block.norm2(states))
            if number in visual.deepstack_visual_indexes:
                merger = visual.deepstack_merger_list[visual.deepstack_visual_indexes.index(number)]
                levels.append(merger(states.flatten(0, 1)))
        levels.insert(0, visual.merger(states.flatten(0, 1)))
        return [level.view(num_grids, NUM_CELLS, -1) for level in levels]

    def features(self, pixels: Tensor) -> Tensor:
        """Returns (1 + levels, B * S * 4, H), as the family caches them."""
        grids = pixels.flatten(0, 1).unflatten(0, (-1, TEMPORAL_PATCH))
        return torch.stack(self._encode(grids)).flatten(1, 2)

    def cell_features(self, pixels: Tensor) -> list[Tensor]:
        """Returns what stands for a token, and what is added to it in the first decoder layers."""
        return self._encode(pixels)

    def freeze_tower(self) -> None:
        """Freezes all of it."""
        self.model.model.visual.requires_grad_(False)

    def hidden_states(self, ids: Tensor, types: Tensor, positions: Tensor, mask: Tensor, features: Tensor) -> Tensor:
        """Runs the decoder."""
        decoder, is_clip = self.model.model.language_model, types.bool()
        first, *deep = features.unbind()
        states: Tensor = decoder(
            inputs_embeds=decoder.embed_tokens(ids).masked_scatter(is_clip[..., None], first),
            position_ids=positions.permute(2, 0, 1),
            attention_mask=mask,
            visual_pos_masks=is_clip,
            deepstack_visual_embeds=deep,
            use_cache=False,
        ).last_hidden_state
        return states

    @property
    def layers(self) -> nn.ModuleList:
        """The decoder's layers."""
        return self.model.model.language_model.layers

    @property
    def embeddings(self) -> Tensor:
        """The token embeddings."""
        return self.model.model.language_model.embed_tokens.weight

    def logits(self, states: Tensor) -> Tensor:
        """Runs the output layer."""
        return self.model.lm_head(states)

    def logits_before_norm(self, states: Tensor) -> Tensor:
        """Runs the last norm and the output layer."""
        return self.model.lm_head(self.model.model.language_model.norm(states))

    def attention_excess(self, layer: nn.Module, hidden: Tensor, limit: float) -> Tensor:
        """Measures the weights of the norms that queries and keys go through, which bound them for every token."""
        del hidden
        attention: Any = layer.self_attn
        norms = (attention.q_norm.weight, attention.k_norm.weight)
        return torch.stack([F.relu(attention.scaling * weight.pow(2).sum() - limit) for weight in norms]).sum()

    def write_files(self, folder: Path) -> None:
        """Writes tokenizer, config.json, generation_config.json and what transformers' own processor reads."""
        save_qwen3_vl_tokenizer(self._tokenizer, folder=folder)
        write_json(TINY_CONFIG, folder / "config.json")
        for name, value in {"generation_config.json": GENERATION_CONFIG, **PROCESSOR_FILES}.items():
            write_json(value, folder / name)
