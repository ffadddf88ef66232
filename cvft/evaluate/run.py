"""`cvft eval`: a run's val rows answered by one of its models, every prediction kept, scored.

RUN/data/val.jsonl + model -> RUN/eval/<model>/{predictions.jsonl, metrics.json} for the settings that the run was trained with,
RUN/eval/<model>-<digest>/ for others, RUN/eval/<model>-<file>-<digest>/ for rows of another file, RUN/eval/<model>-blind/ for
answers without the clips: none replaces one with other settings. Answers are kept as they come, in predictions.partial.jsonl.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cvft.data.check import fetch_clips
from cvft.data.records import fingerprint_looks, fingerprint_rows
from cvft.data.rows import Row, read_rows
from cvft.errors import DataError, Problem, RunError
from cvft.evaluate.metrics.rows import score_answers
from cvft.files import check_output, hash_file, write_whole
from cvft.jsonl import read_jsonl, to_jsonl
from cvft.plan.job import Job
from cvft.plan.lengths import check_prompts
from cvft.plan.ranks import check_num_ranks
from cvft.plan.recorded import RecordedRows, read_recorded, refuse_gone, refuse_other_data
from cvft.plan.url_cache import unpacked_dir
from cvft.predict.answers import Answering, answer_rows, locate_problems, open_answers, partial_file
from cvft.predict.placement import choose_num_ranks
from cvft.predict.ranks import AnsweringRanks, RunModel
from cvft.predict.trained import require_merged
from cvft.recipe import Recipe, default_name, load_recipe
from cvft.runs import METRICS_FILE, PREDICTIONS_FILE, RunFolder, read_metrics
from cvft.weights.folder import ADAPTER_WEIGHTS_FILE, CHECKSUM_FILE

if TYPE_CHECKING:
    from cvft.families.answering import Answer
    from cvft.predict.open import Predictors, Variant

LOG = logging.getLogger(__name__)

NUM_DIGEST_DIGITS = 8

BLIND = "-blind"
"""Ending of the folder of answers that were given without the clips."""


@dataclass(frozen=True)
class Evaluation:
    """A finished evaluation.

    Args:
        folder: Where its predictions and metrics lie.
        metrics: Overall and per category.
    """

    folder: Path
    metrics: dict[str, Any]

    def read_predictions(self) -> list[dict[str, Any]]:
        """Reads the rows with their predictions, in order."""
        return read_jsonl(self.folder / PREDICTIONS_FILE)


def evaluate_run(
    job: Job,
    *,
    variant: Variant,
    predictors: Predictors | None = None,
    data: Path | None = None,
    is_blind: bool = False,
    num_ranks: int | None = 1,
) -> Evaluation:
    """Answers a run's val rows, or those of another file, with one of its models, keeps every prediction and scores them.

    Each answer is on the disk as soon as it is there: an evaluation that was stopped goes on where it was.

    Args:
        job: The job of a trained run.
        variant: `base`, `adapter` or `merged`.
        predictors: The run's models, where others ask them too.
        data: Rows of another file, with their responses; without it, those that the run has held out.
        is_blind: Whether the questions are asked without their clips, to see what can be guessed.
        num_ranks: Processes that answer, each on a GPU of its own; the answers do not depend on it. None takes as many as
            trained, where that is faster. With several, what is loaded in `predictors` makes room for them.

    Returns:
        The evaluation; one with the same settings is not done again.

    Raises:
        RunError: when the run has no val rows, or other ones by now, or the model asked for is not there.
        DataError: when a clip is another one by now, when it is gone, or when it cannot be decoded.
        ContractError: when recipe and adapter disagree on the preprocessing.
        CvftError: when there are fewer GPUs than ranks, or when one fails.
    """
    check_num_ranks(num_ranks or 1, device=job.ranks.device, num_gpus_present=len(job.machine.gpus))
    if variant == "merged":
        require_merged(job.run)
    asked = _read_asked(job, data)
    rows = asked.rows[: job.recipe.eval.num_rows]
    settings = _settings(job.recipe, variant, num_rows=len(rows), run=job.run, data=data, is_blind=is_blind)
    made_of = {"weights": _weights_of(job, variant), "rows_sha256": fingerprint_rows(asked.named[: len(rows)])}
    # the run's own clips were proved to be those of the training
    clips = None if asked.recorded else fingerprint_looks(rows)
    target = job.run.evaluation(
        _name(job.run, variant, settings, num_rows=len(asked.rows), data=data, is_blind=is_blind)
    )
    if data is not None:
        LOG.info("rows      %s: not the run's own val rows; the results lie in %s", data, target)
    stored = read_metrics(target)
    if stored is not None and stored["settings"] == settings and stored.get("made_of") == {**made_of, "clips": clips}:
        partial_file(target / PREDICTIONS_FILE).unlink(
            missing_ok=True
        )  # who wrote the metrics may have been killed then
        return Evaluation(target, dict(stored["metrics"]))
    if asked.recorded is not None:
        refuse_gone(asked.recorded, job.run)
    questions = [replace(row, videos=(), urls=()) for row in rows] if is_blind else rows
    check_prompts(
        questions,
        family=job.family,
        folder=job.model.folder,
        how=job.preprocessing,
        max_new_tokens=job.recipe.eval.max_new_tokens,
    )
    check_output(target / METRICS_FILE, subject=f"run folder {job.run.path}", where="eval/", may_exist=True)
    with ExitStack() as stack:
        model = RunModel(job, variant, {} if asked.recorded is None else asked.recorded.clips)
        most_ranks = choose_num_ranks(job, num_rows=len(rows)) if num_ranks is None else num_ranks
        answered = _answer(
            job,
            variant,
            questions,
            target=target,
            settings={**settings, **made_of},
            answering=lambda: _open_answering(model, num_ranks=most_ranks, predictors=predictors, stack=stack),
        )
    answers = [answered[number] for number in range(len(rows))]
    scores, metrics = score_answers(rows, [answer.text for answer in answers])
    metrics["num_cut"] = sum(answer.is_cut for answer in answers)
    lines = [
        {**row.to_json(), "prediction": answer.text, "is_cut": answer.is_cut, **score.to_json()}
        for row, answer, score in zip(rows, answers, scores, strict=True)
    ]
    # an older evaluation of other weights or rows: without its metrics it is none
    (target / METRICS_FILE).unlink(missing_ok=True)
    write_whole(target / PREDICTIONS_FILE, to_jsonl(lines))
    # last: a folder with metrics is whole
    text = (
        json.dumps({"settings": settings, "made_of": {**made_of, "clips": clips}, "metrics": metrics}, indent=2) + "\n"
    )
    write_whole(target / METRICS_FILE, text)
    partial_file(target / PREDICTIONS_FILE).unlink()
    return Evaluation(target, metrics)


@dataclass(frozen=True)
class _Asked:
    """The rows to answer, the same rows with their clips under the names that tell them apart, and what was recorded of them."""

    rows: Sequence[Row]
    named: Sequence[Row]
    recorded: RecordedRows | None


def find_probes(run: RunFolder, recipe: Recipe, variants: Sequence[str]) -> dict[str, dict[str, Evaluation]]:
    """Finds what models of a run have answered to its probe sets; asks nobody.

    Args:
        run: The run.
        recipe: Its recipe.
        variants: Models, the tuned one last.

    Returns:
        Name of a probe set -> model -> its evaluation: the last one of the tuned model, and those of the same rows.
    """
    probes: dict[str, dict[str, Evaluation]] = {}
    for path in recipe.eval.probes:
        found = {variant: _find_stored(run, recipe, variant, data=path) for variant in variants}
        last = next((found[variant][0] for variant in reversed(variants) if found[variant]), None)
        for variant, stored in found.items():
            same = [each for each in stored if last is not None and each.rows_sha256 == last.rows_sha256]
            if same:
                probes.setdefault(path.stem, {})[variant] = same[0].evaluation
    return probes


@dataclass(frozen=True)
class _Stored:
    """An evaluation of a file's rows, and what identifies the rows."""

    evaluation: Evaluation
    rows_sha256: str


def _find_stored(run: RunFolder, recipe: Recipe, variant: str, *, data: Path) -> list[_Stored]:
    """Returns the evaluations of a file's rows with the recipe's settings, the newest first."""
    found: dict[int, _Stored] = {}
    for folder in sorted(run.eval.glob(f"{variant}-*")):
        stored = read_metrics(folder)
        num_rows = None if stored is None else stored["settings"].get("num_rows")
        if stored is None or not isinstance(num_rows, int) or num_rows > (recipe.eval.num_rows or num_rows):
            continue
        if stored["settings"] == _settings(recipe, variant, num_rows=num_rows, run=run, data=data):
            rows_sha256 = str(stored.get("made_of", {}).get("rows_sha256"))
            when = (folder / METRICS_FILE).stat().st_mtime_ns
            found[when] = _Stored(Evaluation(folder, dict(stored["metrics"])), rows_sha256)
    return [found[when] for when in sorted(found, reverse=True)]


def _read_asked(job: Job, data: Path | None) -> _Asked:
    if data is not None:
        url_cache = job.url_cache
        rows = read_rows(
            data,
            video_root=job.recipe.data.video_root,
            format="auto",
            clips=unpacked_dir(job.recipe),
            url_cache=url_cache.folder,
        )
        refused = fetch_clips(rows[: job.recipe.eval.num_rows], url_cache)
        if refused:
            bad = {
                number: refused[clip]
                for number, row in enumerate(rows)
                for clip in reversed(row.videos)
                if clip in refused
            }
            raise DataError("the rows to evaluate", locate_problems(bad, rows))
        return _Asked(rows, rows, None)
    require_val_rows(job.run)
    refuse_other_data(job.run, recipe=job.recipe, since="this run")
    recorded = read_recorded(job.run, "val", recipe=job.recipe)
    return _Asked(recorded.all_rows, recorded.stored, recorded)


def _open_answering(model: RunModel, *, num_ranks: int, predictors: Predictors | None, stack: ExitStack) -> Answering:
    """Opens what answers: ranks, or a model in this process, which is closed with the stack unless others ask it too."""
    if num_ranks > 1:
        LOG.info("answers   by up to %d ranks, each with a copy of the model", num_ranks)
        if predictors is not None:
            predictors.close()
        return AnsweringRanks(model, num=num_ranks, device=model.job.ranks.device)
    from cvft.predict.open import Predictors

    models = predictors or stack.enter_context(closing(Predictors(model.job)))
    return models.get(model.variant, clips=model.clips)


def _answer(
    job: Job,
    variant: Variant,
    rows: Sequence[Row],
    *,
    target: Path,
    settings: Mapping[str, Any],
    answering: Callable[[], Answering],
) -> Mapping[int, Answer]:
    partial = partial_file(target / PREDICTIONS_FILE)

    def start_anew(differing: str) -> None:
        LOG.info("answers   those in %s were made with another %s: starting anew", partial, differing)

    with open_answers(partial, rows, settings=settings, on_other=start_anew) as kept:
        if kept.answers:
            LOG.info("answers   %d of %d are there from before, in %s", len(kept.answers), len(rows), partial)
        answered = answer_rows(
            rows,
            kept,
            answering=answering,
            batch_rows=job.recipe.eval.batch_rows,
            max_new_tokens=job.recipe.eval.max_new_tokens,
            description=f"answering ({variant})",
        )
    if answered.bad:
        hint = (
            f"the {len(answered.answers)} answers to the other rows are kept: repair it and run the same command again"
        )
        problems = [replace(each, hint=each.hint or hint) for each in locate_problems(answered.bad, rows)]
        raise DataError("the rows to evaluate", problems)
    return answered.answers


def require_val_rows(folder: RunFolder) -> None:
    """Refuses a run that has held no rows out.

    Raises:
        RunError: when there are none.
    """
    if not folder.val_rows.is_file():
        hint = f"cvft eval {folder.path} --data FILE evaluates the rows of a file"
        problem = Problem("data/val.jsonl", "no val rows", "rows to evaluate", hint)
        raise RunError(f"run folder {folder.path}", [problem])


def _weights_of(job: Job, variant: Variant) -> str:
    """Identifies the weights that answer: an evaluation of others is another one."""
    if variant == "base":
        return job.contract.base_fingerprint
    path = job.run.adapter / ADAPTER_WEIGHTS_FILE if variant == "adapter" else job.run.merged / CHECKSUM_FILE
    if not path.is_file():
        command = "train" if variant == "adapter" else "export"
        hint = f"bring it back from a copy, or cvft {command} {job.run.path}"
        problem = Problem(
            f"{path.parent.name}/{path.name}", "no such file", f"the file that cvft {command} wrote", hint
        )
        raise RunError(f"run folder {job.run.path}", [problem])
    return hash_file(path)


def _settings(
    recipe: Recipe,
    variant: str,
    *,
    num_rows: int,
    run: RunFolder,
    data: Path | None = None,
    is_blind: bool = False,
) -> dict[str, Any]:
    """States what decides the predictions beyond the run itself."""
    settings: dict[str, Any] = {
        "num_rows": num_rows,
        "max_new_tokens": recipe.eval.max_new_tokens,
        "model": variant,
        "quantize": recipe.model.quantize,
    }
    if run.checkpoint is not None and variant != "base":
        settings["checkpoint"] = run.checkpoint
    if data is not None:
        settings["data"] = str(data.absolute())
    if is_blind:
        settings["is_blind"] = True
    return settings


def _name(
    run: RunFolder, variant: Variant, settings: dict[str, Any], *, num_rows: int, data: Path | None, is_blind: bool
) -> str:
    name = f"{variant}-checkpoint-{settings['checkpoint']}" if "checkpoint" in settings else variant
    name += BLIND * is_blind
    if data is not None:
        name += f"-{default_name(data)}"
    else:
        own = load_recipe(run.recipe_file).recipe
        own_rows = min(num_rows, own.eval.num_rows or num_rows)
        if settings == _settings(own, variant, num_rows=own_rows, run=run, is_blind=is_blind):
            return name
    text = json.dumps(settings, sort_keys=True)
    return f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:NUM_DIGEST_DIGITS]}"
