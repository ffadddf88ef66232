"""Weights by name: a model folder becomes a model of transformers in memory, and nothing that lies in the folder runs."""

from __future__ import annotations

from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoConfig, GenerationConfig, InternVLForConditionalGeneration, PreTrainedTokenizerFast

from cvft.errors import ModelError
from cvft.families.family import Loading
from cvft.families.generation_file import stop_tokens
from cvft.families.internvl.family import INTERNVL
from cvft.families.internvl.network.models import CLASS
from cvft.families.internvl.sizes import ties_embeddings
from cvft.families.internvl.tensors import PROJECTOR, TOWER
from cvft.families.internvl.tokenizer import PADDING, load_encoder
from cvft.families.network.loading import load_fast_tokenizer, load_stock_model
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
    """Loads a folder's tower and projector, and nothing else.

    Args:
        folder: The folder.
        dtype: Precision of the weights in memory.
        device: Where to put them.

    Returns:
        transformers' model without its decoder, frozen.
    """
    config = load_config(folder)
    config.vision_config._attn_implementation = "sdpa"
    with torch.device("meta"):
        whole: Any = InternVLForConditionalGeneration(config)
    tower = whole.model
    tower.language_model = None
    weights = {}
    for shard in read_model_shards(folder, INTERNVL):
        with safe_open(shard.path, framework="pt") as file:
            for entry in shard.entries:
                name = INTERNVL.module_of(entry.name)
                if name.startswith((f"{TOWER}.", f"{PROJECTOR}.")):
                    weights[name.removeprefix("model.")] = file.get_tensor(entry.name).to(dtype)
    tower.load_state_dict(weights, assign=True)
    return tower.to(device).requires_grad_(False).eval()
