"""Opening a folder with transformers' own classes, for families whose weights run in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast

from cvft.dtypes import BY_NAME
from cvft.families.network.experts import run_experts_in_any_precision
from cvft.families.network.quantization import quantization_config
from cvft.families.network.scoring import attend_in_groups, become
from cvft.families.runtime import Loading
from cvft.weights.folder import ModelFolder

LOADING_KINDS = ("missing_keys", "unexpected_keys", "mismatched_keys")


def load_stock_model(
    stock: type[PreTrainedModel],
    scoring_class: type[PreTrainedModel],
    folder: ModelFolder,
    *,
    config: Any,
    loading: Loading,
    generation: GenerationConfig,
    kept_modules: Sequence[str],
) -> Any:
    """Loads weights into a class of transformers.

    Args:
        stock: The class.
        scoring_class: The same with `LabelScoring`, which the model becomes; its decoder attends in groups where it can.
        folder: The folder, whose weight files were proved to hold exactly the model.
        config: transformers' configuration.
        loading: Precision, placement, quantization. The decoder's attention is the one that it says; the tower has `sdpa`.
        generation: Tokens that end and pad an answer.
        kept_modules: What keeps its precision where the decoder blocks are quantized.

    Returns:
        The model.
    """
    dtype = getattr(torch, BY_NAME[loading.dtype].torch_name)
    device_map, quantization = loading.device_map, None
    if loading.quantize != "none":
        device_map = device_map or "cpu"
        on_cpu = device_map in ("cpu", {"": "cpu"})
        quantization = quantization_config(loading.quantize, dtype=dtype, on_cpu=on_cpu, kept_modules=kept_modules)
    with quiet_transformers():
        model: Any
        model, info = stock.from_pretrained(
            str(folder.path),
            config=config,
            dtype=dtype,
            attn_implementation="sdpa",
            device_map=device_map,
            quantization_config=quantization,
            generation_config=generation,
            output_loading_info=True,
            use_safetensors=True,
            local_files_only=True,
        )
    unfit = {kind: keys for kind, keys in info.items() if kind in LOADING_KINDS and keys}
    assert not unfit, unfit  # the headers said that all of them fit
    model.get_decoder().config._attn_implementation = loading.attention or "sdpa"
    become(model, scoring_class)
    attend_in_groups(model)
    run_experts_in_any_precision(model)
    model.runs_tower_always = loading.runs_tower_always
    return model


def load_fast_tokenizer(folder: ModelFolder, *, padding: str) -> PreTrainedTokenizerFast:
    """Loads the fast tokenizer of a folder without looking at the folder's config or code.

    Args:
        folder: The folder.
        padding: Its padding token.
    """
    tokenizer = PreTrainedTokenizerFast.from_pretrained(str(folder.path), fix_mistral_regex=False)
    tokenizer.pad_token = padding
    return tokenizer


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Hides transformers' own progress bar and its table of unfit tensors: cvft shows one bar and reports them itself."""
    from transformers.utils import logging

    verbosity, had_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if had_bar:
            logging.enable_progress_bar()
