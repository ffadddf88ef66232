"""Weights by name: a model folder becomes a model of transformers in memory, and nothing that lies in the folder runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoConfig, GenerationConfig, PreTrainedTokenizerFast

from cvft.errors import ModelError
from cvft.families.family import Loading
from cvft.families.generation_file import stop_tokens
from cvft.families.network.loading import load_fast_tokenizer, load_stock_model
from cvft.families.network.scoring import attend_in_groups, become
from cvft.families.qwen_vl.family import QwenVL, family_of
from cvft.families.qwen_vl.network.delta_net import fork_states_in_groups
from cvft.families.qwen_vl.network.models import CLASSES, STOCK, encode_clip
from cvft.families.qwen_vl.tensors import VISION
from cvft.families.qwen_vl.tokenizer import PADDING, load_encoder
from cvft.families.weight_files import read_model_shards
from cvft.weights.folder import ModelFolder

KEPT_MODULES = ("lm_head", VISION)
"""What keeps its precision where the decoder blocks are quantized."""


def load_config(folder: ModelFolder) -> Any:
    """Builds transformers' configuration of a folder."""
    _check(family_of(folder.config), folder)
    return AutoConfig.from_pretrained(str(folder.path), trust_remote_code=False, local_files_only=True)


def load_tokenizer(folder: ModelFolder) -> PreTrainedTokenizerFast:
    """Loads the fast tokenizer of a folder without looking at the folder's config or code; its padding token is set."""
    load_encoder(folder)
    return load_fast_tokenizer(folder, padding=PADDING)


def load_model(folder: ModelFolder, loading: Loading) -> Any:
    """Loads a folder's weights, in evaluation mode.

    Raises:
        ModelError: when the files do not hold exactly the model's tensors.
    """
    family = family_of(folder.config)
    config = load_config(folder)
    read_model_shards(folder, family)
    _, special = load_encoder(folder)
    stops = stop_tokens(folder, turn_end=special.turn_end)
    model = load_stock_model(
        STOCK[family.name],
        folder,
        config=config,
        loading=loading,
        generation=GenerationConfig(eos_token_id=stops, pad_token_id=special.padding),
        kept_modules=KEPT_MODULES,
    )
    become(model, CLASSES[family.name])
    attend_in_groups(model)
    fork_states_in_groups(model)
    model.runs_tower_always = loading.runs_tower_always
    if not loading.with_tower:
        model.model.visual = None
    return model.eval()


class LoadedTower(nn.Module):
    """Tower and mergers of a folder, frozen, called as the whole model calls them.

    Args:
        family: The generation.
        config: transformers' configuration.
    """

    def __init__(self, family: QwenVL, config: Any) -> None:
        super().__init__()
        with torch.device("meta"):
            whole: Any = STOCK[family.name](config)
        self._whole = type(whole.model)
        self.config = config
        with _default_dtype(torch.float32):
            self.visual = type(whole.model.visual)(whole.model.visual.config)

    def get_video_features(self, pixels: Tensor, grid: Tensor, **kwargs: Any) -> Any:
        """Runs transformers' own method with this tower."""
        return self._whole.get_video_features(self, pixels, grid, **kwargs)

    def get_image_features(self, pixels: Tensor, grid: Tensor, **kwargs: Any) -> Any:
        """Runs transformers' own method with this tower; called by the one above."""
        return self._whole.get_image_features(self, pixels, grid, **kwargs)

    def encode(self, pixels: Tensor, grid: Tensor) -> Tensor:
        """Encodes one clip.

        Args:
            pixels: (t·h·w, values).
            grid: (1, 3).

        Returns:
            (1 + levels, N, H).
        """
        return encode_clip(self, pixels, grid)


def load_tower(folder: ModelFolder, *, dtype: torch.dtype, device: str) -> LoadedTower:
    """Loads a folder's tower and mergers, and nothing else.

    Args:
        folder: The folder.
        dtype: Precision of the weights in memory.
        device: Where to put them.
    """
    family = family_of(folder.config)
    config = load_config(folder)
    config.vision_config._attn_implementation = "sdpa"
    tower = LoadedTower(family, config)
    weights = {}
    prefix = f"{VISION}."
    for shard in read_model_shards(folder, family):
        with safe_open(shard.path, framework="pt") as file:
            for entry in shard.entries:
                name = family.module_of(entry.name)
                if name is not None and name.startswith(prefix):
                    weights[name.removeprefix(prefix)] = file.get_tensor(entry.name).to(dtype)
    tower.visual.load_state_dict(weights)
    return tower.to(dtype).to(device).requires_grad_(False).eval()


def _check(family: QwenVL, folder: ModelFolder) -> None:
    if problems := family.check_folder(folder):
        raise ModelError(f"model {folder.path}", problems)


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
