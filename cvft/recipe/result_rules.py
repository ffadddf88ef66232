"""Rules between the settings of what comes out: evaluation, the choice of a checkpoint, export."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from cvft.errors import Problem, quote
from cvft.recipe.rule import Rule

if TYPE_CHECKING:
    from cvft.recipe.schema import Recipe


LOSS_METRICS = ("eval_loss", "eval_token_acc")
"""What a checkpoint can be chosen by without an answer to any row."""


def _eval_has_rows(recipe: Recipe) -> Iterable[Problem]:
    if recipe.data.val is not None or recipe.data.val_fraction != 0:
        return
    train = recipe.train
    for key in ("eval_steps", "eval_answers", "early_stop_evals", "select_by"):
        value, default = getattr(train, key), type(train).model_fields[key].default
        if value != default:
            yield Problem(
                f"train.{key}",
                f"{quote(value)} with `data.val_fraction` 0",
                f"{quote('null' if default is None else default)}: there are no val rows",
                f"remove `train.{key}`, or hold out some clips",
            )
    if recipe.export.checkpoint == "best":
        need = "`last` or a step: there are no val rows to tell which is best"
        yield Problem("export.checkpoint", "`best` with `data.val_fraction` 0", need, "hold out some clips")


def _choice_has_answers(recipe: Recipe) -> Iterable[Problem]:
    train = recipe.train
    if train.select_by not in LOSS_METRICS and train.eval_answers is None:
        yield Problem(
            "train.select_by",
            f"{quote(train.select_by)} without `train.eval_answers`",
            "`eval_loss` or `eval_token_acc`: no val row is answered while it trains",
            "set `train.eval_answers` to the number of val rows to answer each time",
        )
    if train.eval_answers is not None and recipe.parallel.strategy == "zero3":
        need = "`null`: ZeRO-3 has no whole weights to answer with"
        got = f"{quote(train.eval_answers)} with `parallel.strategy` zero3"
        yield Problem("train.eval_answers", got, need, "set `parallel.strategy: zero2`")


def _choice_has_effect(recipe: Recipe) -> Iterable[Problem]:
    train, checkpoint = recipe.train, recipe.export.checkpoint
    if not isinstance(checkpoint, int):
        return
    if train.early_stop_evals is not None:
        got = f"{quote(checkpoint)} with `train.early_stop_evals`"
        need = "`best` or `last`: the training may end before that step"
        yield Problem("export.checkpoint", got, need, "set `export.checkpoint: best`")
    if train.max_steps is not None and checkpoint > train.max_steps:
        yield Problem("export.checkpoint", quote(checkpoint), f"at most {train.max_steps} (train.max_steps)")


def _trackers_once(recipe: Recipe) -> Iterable[Problem]:
    names = recipe.train.report_to
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        yield Problem("train.report_to", f"{quote(twice[0])} more than once", "each tracker once", "remove the second")


def _export_has_effect(recipe: Recipe) -> Iterable[Problem]:
    if recipe.export.merge:
        return
    for key, field in type(recipe.export).model_fields.items():
        value = getattr(recipe.export, key)
        if key not in ("merge", "checkpoint") and value != field.default:
            yield Problem(
                f"export.{key}",
                f"{quote(value)} with `export.merge` false",
                "no such setting: nothing is merged",
                f"remove `export.{key}`",
            )


def _remote_code_computes_the_same(recipe: Recipe) -> Iterable[Problem]:
    if recipe.export.keep_remote_code and recipe.model.rope_precision == "fp32":
        yield Problem(
            "export.keep_remote_code",
            "`True` with `model.rope_precision` fp32",
            "`checkpoint`: the published code computes the rotary table in the weights' precision",
            "remove one of the two",
        )


def _steps_can_be_skipped(recipe: Recipe) -> Iterable[Problem]:
    num, strategy = recipe.train.max_skipped_steps, recipe.parallel.strategy
    if num and strategy.startswith("zero"):
        got = f"{quote(num)} with `parallel.strategy` {strategy}"
        need = "0: DeepSpeed has taken a step by the time its gradient can be looked at"
        yield Problem("train.max_skipped_steps", got, need, "remove it, or set `parallel.strategy: ddp`")


def _probes_have_names(recipe: Recipe) -> Iterable[Problem]:
    paths = recipe.eval.probes
    stems = [path.stem for path in paths]
    twice = [path for path, stem in zip(paths, stems, strict=True) if stems.count(stem) > 1]
    if twice:
        got = f"{len(twice)} files named {quote(twice[0].stem)}"
        yield Problem("eval.probes", got, "files of different names, which the report shows", "rename all but one")
    for key, own in (("data.train", recipe.data.train), ("data.val", recipe.data.val)):
        if own in paths:
            yield Problem("eval.probes", f"the file of `{key}`", "rows that this training is not about", "leave it out")


RESULT_RULES: tuple[Rule, ...] = (
    Rule(
        (
            "train.eval_steps",
            "train.eval_answers",
            "train.early_stop_evals",
            "train.select_by",
            "export.checkpoint",
            "data.val",
            "data.val_fraction",
        ),
        _eval_has_rows,
    ),
    Rule(("eval.probes", "data.train", "data.val"), _probes_have_names),
    Rule(("train.select_by", "train.eval_answers", "parallel.strategy"), _choice_has_answers),
    Rule(("export.checkpoint", "train.early_stop_evals", "train.max_steps"), _choice_has_effect),
    Rule(("train.report_to",), _trackers_once),
    Rule(("export.merge", "export.dtype", "export.verify_rows", "export.keep_remote_code"), _export_has_effect),
    Rule(("train.max_skipped_steps", "parallel.strategy"), _steps_can_be_skipped),
    Rule(("export.keep_remote_code", "model.rope_precision"), _remote_code_computes_the_same),
)
