"""Which recipe settings every family has, and the one rule that refuses the others where they would have no effect.

Every key of a recipe is common or claimed by a family (`Family.settings`); a test proves it.
"""

from __future__ import annotations

from typing import Any

from cvft.errors import Problem, RecipeError, quote
from cvft.families.family import Family
from cvft.recipe import Recipe
from cvft.recipe.names import iter_fields

COMMON_SECTIONS = ("data", "optim", "parallel", "eval")
"""Sections whose settings all families share."""

COMMON = frozenset(
    {
        "name",
        "seed",
        "model.path",
        "model.revision",
        "model.dtype",
        "model.attention",
        "video.max_frames",
        "video.cache_features",
        "video.cache_limit_gb",
        "video.decoder",
        "video.timeout_s",
        "video.memory_gib",
        "lora.targets",
        "lora.rank",
        "lora.alpha",
        "lora.dropout",
        "lora.dora",
        "lora.rslora",
        "train.epochs",
        "train.max_steps",
        "train.global_batch_rows",
        "train.micro_batch_rows",
        "train.gradient_checkpointing",
        "train.logging_steps",
        "train.save_steps",
        "train.eval_steps",
        "train.keep_checkpoints",
        "train.max_skipped_steps",
        "train.eval_answers",
        "train.select_by",
        "train.early_stop_evals",
        "train.report_to",
        "train.num_workers",
        "train.resume_from",
        "export.checkpoint",
        "export.merge",
        "export.dtype",
        "export.verify_rows",
        "output.root",
        "output.features",
    }
)
"""Settings of the other sections that all families share."""

WITHOUT_EFFECT = ("auto", "off", "none", False, None)
"""Values that ask for nothing, so that a family without the setting does as they say."""


def is_common(key: str) -> bool:
    """Tells whether all families share a setting.

    Args:
        key: Key path, such as `lora.rank`.
    """
    return key in COMMON or key.partition(".")[0] in COMMON_SECTIONS


def check_settings(recipe: Recipe, family: Family) -> None:
    """Refuses every setting that would have no effect on a family's models.

    Args:
        recipe: The recipe.
        family: The family of its model.

    Raises:
        RecipeError: with every such setting.
    """
    problems = []
    if recipe.video.cache_features == "on" and not family.capabilities.features:
        need = f"`auto`, `pixels` or `off`: features of {family.title} cannot be cached"
        problems.append(Problem("video.cache_features", "`on`", need, "set `video.cache_features: auto`"))
    for key, definition in iter_fields():
        if is_common(key) or key in family.settings:
            continue
        value, default = _value_of(recipe, key), definition.default
        if value != default and value not in WITHOUT_EFFECT:
            harmless = " or ".join(quote(each) for each in dict.fromkeys((default, *_harmless(default))))
            need = f"{harmless}: {family.title} has no such setting"
            problems.append(Problem(key, quote(value), need, f"remove `{key}`"))
    if problems:
        raise RecipeError(f"recipe {recipe.name}", problems)


def _harmless(default: Any) -> tuple[str, ...]:
    return ("off",) if default == "auto" else ()


def _value_of(recipe: Recipe, key: str) -> Any:
    value: Any = recipe
    for name in key.split("."):
        value = getattr(value, name)
    return value
