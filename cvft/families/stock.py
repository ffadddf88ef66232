"""What families share whose weights run in transformers' own classes, with features cached behind the projector. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cvft.data.video.loader import DecodeSettings
from cvft.errors import Problem, RecipeError, quote
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
        need = "`auto`, `pixels` or `off`: features are cached behind the projector, which learns"
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


def find_rate_conflicts(recipe: Recipe, *, template: str, title: str) -> list[Problem]:
    """Returns a problem for each setting that a family with one template, whose clips are sampled at a rate, cannot serve.

    Args:
        recipe: The recipe.
        template: Name of the one template.
        title: Name of the family in sentences.
    """
    video, model, problems = recipe.video, recipe.model, []
    if model.template not in ("auto", template):
        need = f"`auto` or {quote(template)}: {title} has one"
        problems.append(Problem("model.template", quote(model.template), need))
    if video.sampling not in ("auto", "fps", "uniform"):
        need = f"`auto`, `fps` or `uniform`: {title} was not made for that rule"
        problems.append(Problem("video.sampling", quote(video.sampling), need))
    if video.sampling == "uniform":
        for key in ("fps", "min_frames"):
            if (value := getattr(video, key)) is not None:
                need = "no such setting with sampling `uniform`"
                problems.append(Problem(f"video.{key}", quote(value), need, f"remove `video.{key}`"))
    return [*problems, *find_crossed_bounds(recipe, "min_frames", "max_frames")]


def find_crossed_bounds(recipe: Recipe, low: str, high: str) -> list[Problem]:
    """Returns a problem where the smaller of two settings of `video` is stated as the larger one.

    Args:
        recipe: The recipe.
        low: Name of the smaller one.
        high: Name of the larger one.
    """
    least, most = getattr(recipe.video, low), getattr(recipe.video, high)
    if least is None or most is None or least <= most:
        return []
    return [Problem(f"video.{low}", quote(least), f"at most `video.{high}`, {most}")]


def decode_at_rate(recipe: Recipe, *, fps: float, min_frames: int, max_frames: int) -> DecodeSettings:
    """Decides how clips become frames where the recipe says `auto` or nothing: at a family's own rate.

    Args:
        recipe: The recipe, without conflicts.
        fps: The family's frames per second.
        min_frames: Its fewest frames, where `max_frames` of the recipe is not less.
        max_frames: Its most frames.
    """
    video = recipe.video
    by_rate = video.sampling in ("auto", "fps")
    most = video.max_frames or max_frames
    return DecodeSettings.of(
        "fps" if by_rate else "uniform",
        max_frames=most,
        decoder=video.decoder,
        fps=(video.fps or fps) if by_rate else None,
        min_frames=(video.min_frames or min(min_frames, most)) if by_rate else None,
        timeout_s=video.timeout_s,
        memory_gib=video.memory_gib,
    )


def most_square(num_tokens: int) -> tuple[int, int]:
    """Returns rows and columns, nearly as many of each, that are exactly so many tokens."""
    num_rows = next(rows for rows in range(int(num_tokens**0.5), 0, -1) if num_tokens % rows == 0)
    return num_rows, num_tokens // num_rows
