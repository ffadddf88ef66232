"""Weights by name: a model folder becomes a model of transformers in memory, and nothing that lies in the folder runs."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, GenerationConfig, PreTrainedTokenizerFast

from cvft.errors import ModelError
from cvft.families.generation_file import stop_tokens
from cvft.families.network.loading import load_fast_tokenizer, load_stock_model
from cvft.families.network.tower import LoadedTower, load_visual
from cvft.families.qwen_vl.family import QwenVL, family_of
from cvft.families.qwen_vl.network.delta_net import fork_states_in_groups
from cvft.families.qwen_vl.network.models import CLASSES, STOCK
from cvft.families.qwen_vl.tensors import VISION
from cvft.families.qwen_vl.tokenizer import PADDING, load_encoder
from cvft.families.runtime import Loading
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
        CLASSES[family.name],
        folder,
        config=config,
        loading=loading,
        generation=GenerationConfig(eos_token_id=stops, pad_token_id=special.padding),
        kept_modules=KEPT_MODULES,
    )
    fork_states_in_groups(model)
    if not loading.with_tower:
        model.model.visual = None
    return model.eval()


def load_tower(folder: ModelFolder, *, dtype: torch.dtype, device: str) -> LoadedTower:
    """Loads a folder's tower and mergers, and nothing else; see `cvft.families.network.tower.load_visual`."""
    family = family_of(folder.config)
    return load_visual(STOCK[family.name], folder, family, config=load_config(folder), dtype=dtype, device=device)


def _check(family: QwenVL, folder: ModelFolder) -> None:
    if problems := family.check_folder(folder):
        raise ModelError(f"model {folder.path}", problems)
