"""Weights by name: a model folder becomes a model of transformers in memory, and nothing that lies in the folder runs."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, GenerationConfig, InternVLForConditionalGeneration, PreTrainedTokenizerFast

from cvft.errors import ModelError
from cvft.families.generation_file import stop_tokens
from cvft.families.internvl.family import INTERNVL
from cvft.families.internvl.network.models import CLASS
from cvft.families.internvl.sizes import ties_embeddings
from cvft.families.internvl.tensors import DECODER, PROJECTOR, TOWER
from cvft.families.internvl.tokenizer import PADDING, load_encoder
from cvft.families.network.loading import load_fast_tokenizer, load_stock_model
from cvft.families.network.tower import load_without_decoder
from cvft.families.runtime import Loading
from cvft.families.weight_files import read_model_shards
from cvft.weights.folder import ModelFolder

KEPT_MODULES = ("lm_head", TOWER, PROJECTOR)
"""What keeps its precision where the decoder blocks are quantized."""


def load_config(folder: ModelFolder) -> Any:
    """Builds transformers' configuration of a folder."""
    if problems := INTERNVL.check_folder(folder):
        raise ModelError(f"model {folder.path}", problems)
    config = AutoConfig.from_pretrained(str(folder.path), trust_remote_code=False, local_files_only=True)
    config.tie_word_embeddings = ties_embeddings(folder.config)
    return config


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
    read_model_shards(folder, INTERNVL)
    _, special = load_encoder(folder)
    stops = stop_tokens(folder, turn_end=special.turn_end)
    model = load_stock_model(
        InternVLForConditionalGeneration,
        CLASS,
        folder,
        config=config,
        loading=loading,
        generation=GenerationConfig(eos_token_id=stops, pad_token_id=special.padding),
        kept_modules=KEPT_MODULES,
    )
    if not loading.with_tower:
        model.model.vision_tower = model.model.multi_modal_projector = None
    return model.eval()


def load_tower(folder: ModelFolder, *, dtype: torch.dtype, device: str) -> Any:
    """Loads a folder's tower and projector, frozen; see `cvft.families.network.tower.load_without_decoder`."""
    return load_without_decoder(
        InternVLForConditionalGeneration,
        read_model_shards(folder, INTERNVL),
        module_of=INTERNVL.module_of,
        config=load_config(folder),
        decoder=DECODER,
        dtype=dtype,
        device=device,
    )
