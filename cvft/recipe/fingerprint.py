"""A recipe -> its fingerprint, its snapshot in a run folder, and its JSON schema for editors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from cvft.recipe.schema import Recipe
from cvft.recipe.yaml_text import dump_yaml

NOT_IDENTITY: tuple[str, ...] = ("name", "output")
"""Where a run lies is not what it is."""

SAME_ROWS: tuple[str, ...] = ("data.train", "data.val", "data.format", "data.video_root", "data.datasets", "data.cache")
"""Where rows and clips lie may change: what lies there counts, and a run has recorded it (`cvft.plan.recorded`)."""

SAME_BITS: tuple[str, ...] = (
    "export",
    "eval",
    "model.embeddings_on_cpu",
    "train.logging_steps",
    "train.max_skipped_steps",
    "train.keep_checkpoints",
    "train.eval_answers",
    "train.select_by",
    "train.report_to",
    "data.check_workers",
    "data.allow_hosts",
    "data.max_download_mib",
    "data.download_timeout_s",
    "train.num_workers",
    "video.cache_features",
    "video.cache_limit_gb",
)
"""Settings that may change when a run is continued: every bit that is trained stays as it is. A test changes them all."""

SAME_SUMS: tuple[str, ...] = (
    "parallel.strategy",
    "parallel.num_gpus",
    "parallel.num_nodes",
    "parallel.node_rank",
    "parallel.rendezvous",
    "parallel.rendezvous_timeout_s",
    "parallel.deepspeed_config",
)
"""Settings that may change as well, as far as the last checkpoint fits the ranks: the same rows in the same steps, added up in
another order, and each rank draws a dropout of its own."""

NOT_WEIGHTS = (*SAME_ROWS, *SAME_BITS, *SAME_SUMS)

ENDS_TRAINING: tuple[str, ...] = ("train.select_by", "train.eval_answers", "eval.max_new_tokens", "eval.batch_rows")
"""Settings that decide when a training ends that ends early (`train.early_stop_evals`), and with that its weights."""


def fingerprint(recipe: Recipe) -> str:
    """Returns the sha256 of everything the recipe says, as 64 hex digits; name and output folder do not count."""
    return _digest(_without(recipe, NOT_IDENTITY))


def weights_fingerprint(recipe: Recipe) -> str:
    """Returns the sha256 of what decides the trained weights: two recipes that share it train alike."""
    return _digest(_deciding(recipe))


def differing_settings(first: Recipe, second: Recipe) -> list[tuple[str, Any, Any]]:
    """Returns where two recipes would train other weights: a key path, such as `lora.rank`, and both values."""
    return list(_differing(_deciding(first), _deciding(second)))


def _deciding(recipe: Recipe) -> dict[str, Any]:
    """Returns the settings that decide the trained weights: of files of rows, how often the rows of each come."""
    values = _without(recipe, (*NOT_IDENTITY, *NOT_WEIGHTS))
    if isinstance(recipe.data.train, tuple) and any(file.weight != 1 for file in recipe.data.train):
        values["data"]["train"] = [file.weight for file in recipe.data.train]
    if recipe.train.early_stop_evals is not None:
        stated = recipe.to_dict()
        for path in ENDS_TRAINING:
            section, _, key = path.rpartition(".")
            values.setdefault(section, {})[key] = stated[section][key]
    return values


def _differing(first: dict[str, Any], second: dict[str, Any], *, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    for key in {**first, **second}:
        value, other = first.get(key), second.get(key)
        if isinstance(value, dict) and isinstance(other, dict):
            yield from _differing(value, other, prefix=f"{prefix}{key}.")
        elif value != other:
            yield f"{prefix}{key}", value, other


def dump_recipe(recipe: Recipe) -> str:
    """Returns the recipe as YAML with every setting stated; loading it gives an equal recipe."""
    return dump_yaml(recipe.to_dict())


def schema_json() -> str:
    """Returns the JSON schema of a recipe *file*, for editors and other tools.

    A file may leave out what it extends, so `model` and `data` are only required of a file without `extends`.
    """
    schema = Recipe.model_json_schema()
    for definition in schema["$defs"].values():
        definition.pop("required", None)
    schema.pop("required", None)
    schema["properties"] = {
        "extends": {"type": "string", "description": "Recipe file to start from, relative to this one."},
        **schema["properties"],
    }
    schema["anyOf"] = [{"required": ["extends"]}, {"required": ["model", "data"]}]
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "cvft recipe"
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def _without(recipe: Recipe, paths: tuple[str, ...]) -> dict[str, Any]:
    values = recipe.to_dict()
    for path in paths:
        section, _, key = path.rpartition(".")
        (values[section] if section else values).pop(key)
    return values


def _digest(values: dict[str, Any]) -> str:
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
