"""The tiny CogVLM2-Video: its sizes, how its rows are written, and how it is run in pre-training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast

from cvft.families.cogvlm2_video.network.configuration import CogVLM2VideoConfig
from cvft.families.cogvlm2_video.network.layers import DecoderLayer
from cvft.families.cogvlm2_video.network.modeling import CogVLM2VideoForCausalLM
from cvft.families.cogvlm2_video.network.positions import position_ids_from_types
from cvft.tiny.architecture import ClipPrefix, Writing
from cvft.tiny.checkpoint_files import write_json
from cvft.tiny.tokenizer import VOCAB_SIZE, build_tokenizer, save_tokenizer
from cvft.tiny.world import CLIP_LOOK

BOS_ID, EOS_ID, PAD_ID = 0, 1, 2

TINY_CONFIG: dict[str, Any] = {
    "architectures": ["CogVLM2VideoForCausalLM"],
    "bos_token_id": BOS_ID,
    "eos_token_id": EOS_ID,
    "hidden_act": "silu",
    "hidden_size": 128,
    "initializer_range": 0.02,
    "intermediate_size": 352,
    "max_position_embeddings": 2048,
    "model_type": "cogvlm2_video",
    "num_attention_heads": 4,
    "num_hidden_layers": 5,
    "num_multi_query_heads": 2,
    "pad_token_id": PAD_ID,
    "rms_norm_eps": 1e-05,
    "template_version": "chat",
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "use_cache": True,
    "vision_config": {
        "dropout_prob": 0.0,
        "hidden_act": "gelu",
        "hidden_size": 96,
        "image_size": 56,
        "in_channels": 3,
        "intermediate_size": 256,
        "layer_norm_eps": 1e-06,
        "num_heads": 4,
        "num_hidden_layers": 3,
        "num_positions": 17,
        "patch_size": 14,
    },
    "vocab_size": VOCAB_SIZE,
}
"""config.json: the published keys, plus model_type; unlike the published file it states that the template is "chat"."""


class CogVLM2VideoWriting:
    """BOS, then per second its clip tokens and its number, then questions; see `cvft.tiny.architecture.Writing`.

    Args:
        tokenizer: The tiny tokenizer.
        tokens_per_frame: Clip tokens of one frame with boi and eoi.
    """

    block_tokens = 21
    stop_id = EOS_ID
    fill_id = EOS_ID

    def __init__(self, tokenizer: PreTrainedTokenizerFast, tokens_per_frame: int) -> None:
        self.tokenizer = tokenizer
        self.tokens_per_frame = tokens_per_frame

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def prefix(self, num_seconds: int) -> ClipPrefix:
        """Writes a clip; each second's number tells what its frame shows."""
        ids, types, places = [BOS_ID], [0], []
        for second in range(num_seconds):
            index_ids = self._encode(str(second))
            ids += [PAD_ID] * self.tokens_per_frame + index_ids
            types += [1] * self.tokens_per_frame + [0] * len(index_ids)
            places.append(len(ids) - 1)
        return ClipPrefix(ids, types, position_ids_from_types(torch.tensor([types]))[0], places)

    def prompt(self, question: str) -> list[int]:
        """Writes a question by the `chat` template."""
        return self._encode(f"Question: {question} Answer:")


class TinyCogVLM2Video:
    """See `cvft.tiny.architecture.Architecture`.

    Args:
        seed: Seed of the tokenizer's text; the weights are drawn from torch's own.
    """

    name = "cogvlm2_video"
    look = CLIP_LOOK
    frames_per_step = 1

    def __init__(self, *, seed: int) -> None:
        tokenizer = build_tokenizer(seed=seed)
        self.model: Any = CogVLM2VideoForCausalLM(CogVLM2VideoConfig(**TINY_CONFIG))
        # the fused attention of torch is slow in bf16 on CPU with a mask
        self.model.set_attn_implementation("eager")
        self.writing: Writing = CogVLM2VideoWriting(tokenizer, self.model.config.vision_config.num_tokens_per_frame)

    def frame_seconds(self, num_seconds: int) -> np.ndarray:
        """One frame a second."""
        return np.arange(num_seconds)

    def tower_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Tower and projector, without boi and eoi."""
        return [(name, p) for name, p in self.model.model.vision.named_parameters() if name not in ("boi", "eoi")]

    def features(self, pixels: Tensor) -> Tensor:
        """Returns (B * F, 4, D) as `VisionTower.encode` does."""
        return self.model.model.vision.encode(pixels.flatten(0, 1))

    def cell_features(self, pixels: Tensor) -> list[Tensor]:
        """Returns the projector's outputs."""
        vision = self.model.model.vision
        return [vision.linear_proj(vision.encode(pixels[:, 0]))]

    def freeze_tower(self) -> None:
        """Freezes all but boi and eoi."""
        vision = self.model.model.vision
        vision.requires_grad_(False)
        vision.boi.requires_grad_(True)
        vision.eoi.requires_grad_(True)

    def hidden_states(self, ids: Tensor, types: Tensor, positions: Tensor, mask: Tensor, features: Tensor) -> Tensor:
        """Runs the decoder."""
        states: Tensor = self.model.model(
            input_ids=ids,
            vision_features=features,
            token_type_ids=types,
            attention_mask=mask,
            position_ids=positions,
        ).last_hidden_state
        return states

    @property
    def layers(self) -> nn.ModuleList:
        """The decoder's layers."""
        return self.model.model.layers

    @property
    def embeddings(self) -> Tensor:
        """The token embeddings."""
        return self.model.model.embed_tokens.weight

    def logits(self, states: Tensor) -> Tensor:
        """Runs the output layer."""
        return self.model.lm_head(states)

    def logits_before_norm(self, states: Tensor) -> Tensor:
        """Runs the last norm and the output layer."""
        return self.model.lm_head(self.model.model.norm(states))

    def attention_excess(self, layer: nn.Module, hidden: Tensor, limit: float) -> Tensor:
        """Measures queries and keys of the tokens given."""
        assert isinstance(layer, DecoderLayer)
        attention = layer.self_attn
        qkv = attention.language_expert_query_key_value(layer.input_layernorm(hidden))
        query, key, _ = qkv.split(attention.split_sizes, dim=-1)
        total = torch.zeros(())
        for part in (query, key):
            squares = attention.scaling * part.float().unflatten(-1, (-1, attention.head_dim)).pow(2).sum(-1)
            total = total + F.relu(squares - limit).mean()
        return total

    def write_files(self, folder: Path) -> None:
        """Writes tokenizer, config.json and generation_config.json."""
        save_tokenizer(self.writing.tokenizer, folder=folder)
        write_json(TINY_CONFIG, folder / "config.json")
        generation = {"bos_token_id": BOS_ID, "eos_token_id": EOS_ID, "pad_token_id": PAD_ID, "do_sample": False}
        write_json(generation, folder / "generation_config.json")
