"""The JSON files of a model folder: what is absent, of another kind, or would not be carried out. No torch."""

from __future__ import annotations

import os
from typing import Any

from cvft.errors import Problem, quote
from cvft.families.any_swift.inputs import PROCESSOR_FILES
from cvft.families.any_swift.models import DECODERS
from cvft.families.generation_file import HINT, check_generation
from cvft.families.text_encoder import check_settings_files
from cvft.json_files import JsonError, read_object, show
from cvft.weights.folder import ModelFolder

HALVES = ("text_config", "vision_config")
COUNTS = ("vocab_size", "hidden_size", "num_hidden_layers", "max_position_embeddings")
"""Keys of `text_config` that are read here."""


def check_config(folder: ModelFolder) -> list[Problem]:
    """Returns a problem for everything that cannot be used of config.json and the files beside it."""
    config = folder.config
    problems = [
        Problem(f"config.json: {name}", show(config.get(name)), "an object", HINT)
        for name in HALVES
        if not isinstance(config.get(name), dict)
    ]
    if problems:
        return problems
    text = config["text_config"]
    decoder = text.get("model_type")
    if decoder not in DECODERS:
        need = f"{' or '.join(map(quote, DECODERS))}: other decoders are not trained through ms-swift's templates yet"
        return [Problem("config.json: text_config.model_type", show(decoder), need)]
    problems = [
        Problem(f"config.json: text_config.{name}", show(text.get(name)), "a whole number of at least 1", HINT)
        for name in COUNTS
        if not _is_count(text.get(name))
    ]
    if text.get("attention_dropout"):
        got, need = quote(text["attention_dropout"]), "`0.0`: an adapter's dropout is `lora.dropout`"
        problems.append(Problem("config.json: text_config.attention_dropout", got, need))
    if problems or folder.is_absent:
        return problems
    return [
        *check_generation(folder, vocab_size=text["vocab_size"]),
        *_check_processor_files(folder),
        *check_settings_files(folder.path),
    ]


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _check_processor_files(folder: ModelFolder) -> list[Problem]:
    """Returns a problem for each broken file of the processor, or for none being there."""
    problems, num_found = [], 0
    for name in PROCESSOR_FILES:
        path = folder.path / name
        if not os.path.lexists(path):
            continue
        num_found += 1
        try:
            values = read_object(path)
        except JsonError as error:
            problems.append(Problem(name, str(error), "the published file", HINT))
            continue
        if "auto_map" in values:
            need = "no such key: nothing of a folder's own code is run"
            problems.append(Problem(f"{name}: auto_map", show(values["auto_map"]), need))
    if not num_found:
        need, hint = f"one of {', '.join(PROCESSOR_FILES)}", "is the download complete?"
        problems.append(Problem("the image processor", "no file that describes it", need, hint))
    return problems
