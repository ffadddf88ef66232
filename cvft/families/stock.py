"""What families share whose weights run in transformers' own classes, with features cached behind the projector. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cvft.errors import Problem, RecipeError
from cvft.families.parts import Parts, Shape, adapted_names, find_unfit_widths
from cvft.recipe import Recipe
from cvft.weights.folder import ModelFolder

HALVES = ("text_config", "vision_config")


def check_stock_recipe(recipe: Recipe, folder: ModelFolder, parts: Parts, shapes: Mapping[str, Shape]) -> None:
    """Refuses names of layers that do not exist, features that would change in training, and widths that nf4 cannot cut.

    Args:
        recipe: The recipe.
        folder: The model folder.
        parts: The model's parts.
        shapes: Its tensors by their names in the loaded model.

    Raises:
        RecipeError: with every such setting.
    """
    problems = find_unfit_widths(recipe.model.quantize, parts, shapes)
    if recipe.video.cache_features == "on" and recipe.lora.train_projector is not False:
        need = "`auto` or `off`: features are cached behind the projector, which learns"
        got = f"`on` with `lora.train_projector` {str(recipe.lora.train_projector).lower()}"
        problems.append(Problem("video.cache_features", got, need, "set `video.cache_features: auto`"))
    try:
        adapted_names(parts, recipe.lora.targets)
    except RecipeError as error:
        problems += error.problems
    if problems:
        raise RecipeError(f"model {folder.path}", problems)


def without_code(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a config.json without what points at code of its folder."""
    return {key: value for key, value in config.items() if key != "auto_map"}


def with_dtype(config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """Returns a config.json that states a precision at its top, and wherever else it states one.

    Args:
        config: Values of a config.json.
        dtype: torch's name of the precision.
    """
    stated = {**config, "torch_dtype": dtype}
    stated.pop("dtype", None)
    for half in HALVES:
        if isinstance(stated.get(half), Mapping):
            inside = {key: dtype for key in ("dtype", "torch_dtype") if key in stated[half]}
            stated[half] = {**stated[half], **inside}
    return stated
