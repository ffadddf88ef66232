"""Weights by name: a model folder becomes a model of transformers in memory, and nothing that lies in the folder runs."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, GenerationConfig, Glm4vForConditionalGeneration, PreTrainedTokenizerFast

from cvft.errors import ModelError
from cvft.families.generation_file import stop_tokens
from cvft.families.glm4v.family import GLM4V
from cvft.families.glm4v.tensors import VISION
from cvft.families.glm4v.tokenizer import PADDING, load_encoder
from cvft.families.network.grid_scoring import GridScoring
from cvft.families.network.loading import load_fast_tokenizer, load_stock_model
from cvft.families.network.scoring import scoring
from cvft.families.network.tower import LoadedTower, load_visual
from cvft.families.runtime import Loading
from cvft.families.weight_files import read_model_shards
from cvft.weights.folder import ModelFolder

KEPT_MODULES = ("lm_head", VISION)
"""What keeps its precision where the decoder blocks are quantized."""

CLASS = scoring(Glm4vForConditionalGeneration, GridScoring)


def load_config(folder: ModelFolder) -> Any:
    """Builds transformers' configuration of a folder."""
    if problems := GLM4V.check_folder(folder):
        raise ModelError(f"model {folder.path}", problems)
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
    config = load_config(folder)
    read_model_shards(folder, GLM4V)
    _, special = load_encoder(folder)
    stops = stop_tokens(folder, turn_end=special.user)
    model = load_stock_model(
        Glm4vForConditionalGeneration,
        CLASS,
        folder,
        config=config,
        loading=loading,
        generation=GenerationConfig(eos_token_id=stops, pad_token_id=special.padding),
        kept_modules=KEPT_MODULES,
    )
    if not loading.with_tower:
        model.model.visual = None
    return model.eval()


def load_tower(folder: ModelFolder, *, dtype: torch.dtype, device: str) -> LoadedTower:
    """Loads a folder's tower and merger, and nothing else; see `cvft.families.network.tower.load_visual`."""
    config = load_config(folder)
    return load_visual(Glm4vForConditionalGeneration, folder, GLM4V, config=config, dtype=dtype, device=device)
