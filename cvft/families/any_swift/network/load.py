"""Weights by name: a model folder becomes a model of transformers in memory, and nothing that lies in the folder runs."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, GenerationConfig, PreTrainedTokenizerFast

from cvft.errors import ModelError
from cvft.families.any_swift.config_file import check_config
from cvft.families.any_swift.models import SwiftModel
from cvft.families.any_swift.network.encoder import RowEncoder
from cvft.families.any_swift.network.models import classes_of
from cvft.families.network.loading import load_stock_model
from cvft.families.network.tower import load_without_decoder
from cvft.families.runtime import Loading
from cvft.families.text_encoder import open_tokenizer
from cvft.weights.folder import ModelFolder
from cvft.weights.shards import read_shards


def load_config(folder: ModelFolder) -> Any:
    """Builds transformers' configuration of a folder."""
    if problems := check_config(folder):
        raise ModelError(f"model {folder.path}", problems)
    return AutoConfig.from_pretrained(str(folder.path), trust_remote_code=False, local_files_only=True)


def load_tokenizer(folder: ModelFolder) -> PreTrainedTokenizerFast:
    """Loads the fast tokenizer of a folder without looking at the folder's code; its padding token is set."""
    open_tokenizer(folder.path)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(str(folder.path), fix_mistral_regex=False)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(folder: ModelFolder, model: SwiftModel, *, encoder: RowEncoder, loading: Loading) -> Any:
    """Loads a folder's weights, in evaluation mode.

    Args:
        folder: The folder.
        model: What it is.
        encoder: What encodes rows for it.
        loading: How weights are loaded.

    Raises:
        ModelError: when the files do not hold exactly the model's tensors.
    """
    stock, scored = classes_of(model)
    stops = encoder.template.stop_ids
    generation = GenerationConfig(eos_token_id=list(stops), pad_token_id=encoder.padding_id)
    loaded = load_stock_model(
        stock,
        scored,
        folder,
        config=load_config(folder),
        loading=loading,
        generation=generation,
        kept_modules=("lm_head", model.tower, model.projector),
    )
    loaded.nothing = encoder.nothing()
    if not loading.with_tower:
        for part in (model.tower, model.projector):
            parent, _, name = part.rpartition(".")
            setattr(loaded.get_submodule(parent), name, None)
    return loaded.eval()


def load_tower(folder: ModelFolder, model: SwiftModel, *, dtype: torch.dtype, device: str) -> Any:
    """Loads everything of a folder but its decoder, frozen; see `cvft.families.network.tower.load_without_decoder`."""
    stock, _ = classes_of(model)
    return load_without_decoder(
        stock,
        read_shards(folder.path, None),
        module_of=model.module_of,
        config=load_config(folder),
        decoder=model.decoder,
        dtype=dtype,
        device=device,
    )
