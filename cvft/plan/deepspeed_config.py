"""A user's own DeepSpeed configuration: read, and refused where it contradicts the recipe."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cvft.errors import Problem, RecipeError, quote
from cvft.json_files import JsonError, read_object
from cvft.recipe import Recipe

BATCH_SIZES = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")

STAGES = {"zero1": 1, "zero2": 2, "zero2_offload": 2, "zero3": 3}


def read_deepspeed_config(recipe: Recipe, *, num_ranks: int) -> dict[str, Any]:
    """Reads `parallel.deepspeed_config` and checks it against the recipe.

    Values that a recipe decides may be absent, "auto" or equal to the recipe's.

    Args:
        recipe: A recipe that names such a file.
        num_ranks: Ranks of the training.

    Returns:
        The configuration, for the plan, with the sizes of batches left to the trainer: it passes through a step in as many
        micro-batches as it takes, and tells DeepSpeed which is the last.

    Raises:
        RecipeError: when the file cannot be read, or contradicts the recipe; all contradictions at once.
    """
    path = recipe.parallel.deepspeed_config
    assert path is not None
    subject = f"DeepSpeed configuration {path}"
    config = _read_object(path, subject=subject)
    problems = list(_contradictions(config, recipe, num_ranks=num_ranks))
    if problems:
        raise RecipeError(subject, problems)
    return {**config, **{key: "auto" for key in BATCH_SIZES if key in config}}


def _read_object(path: Path, *, subject: str) -> dict[str, Any]:
    try:
        return read_object(path)
    except JsonError as error:
        hint = "check parallel.deepspeed_config"
        raise RecipeError(subject, [Problem("file", str(error), "JSON, one object", hint)]) from error


def _contradictions(config: Mapping[str, Any], recipe: Recipe, *, num_ranks: int) -> Iterator[Problem]:
    stage = STAGES[recipe.parallel.strategy]
    is_bf16 = recipe.model.dtype == "bf16"
    decided: list[tuple[str, object, str]] = [
        ("train_batch_size", recipe.train.global_batch_rows, "train.global_batch_rows"),
        ("train_micro_batch_size_per_gpu", recipe.train.micro_batch_rows, "train.micro_batch_rows"),
        (
            "gradient_accumulation_steps",
            recipe.accumulation_steps(num_ranks=num_ranks),
            "train.global_batch_rows and the number of ranks",
        ),
        ("gradient_clipping", recipe.optim.max_grad_norm, "optim.max_grad_norm"),
        ("bf16.enabled", is_bf16, "model.dtype"),
        ("fp16.enabled", False, "model.dtype"),
        ("zero_optimization.stage", stage, "parallel.strategy"),
    ]
    if recipe.parallel.strategy == "zero2_offload":
        decided.append(("zero_optimization.offload_optimizer.device", "cpu", "parallel.strategy"))
    for key, need, setting in decided:
        got = _lookup(config, key)
        must_be_there = key.startswith("zero_optimization")
        if got == need or (got in (None, "auto") and not must_be_there):
            continue
        shown = "nothing" if got is None else quote(json.dumps(got))
        yield Problem(key, shown, f"{quote(json.dumps(need))}, from the recipe's `{setting}`", "change one of the two")
    for key in ("optimizer", "scheduler"):
        if key in config:
            need = "no such section: the recipe's `optim` section decides"
            yield Problem(key, "a section of its own", need, f"remove {quote(key)}")


def _lookup(config: Mapping[str, Any], path: str) -> Any:
    value: Any = config
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value
