"""`cvft eval`: a run's val rows answered by one of its models, every prediction kept, scored.

RUN/data/val.jsonl + model -> RUN/eval/<model>/{predictions.jsonl, metrics.json} for the settings that the run was trained with,
RUN/eval/<model>-<digest>/ for others: an evaluation never replaces one with other settings.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from cvft.data.rows import Row, category_of, read_rows
from cvft.errors import Problem, RunError
from cvft.evaluate.metrics import score_rows, summarize
from cvft.files import write_whole
from cvft.jsonl import read_jsonl, to_jsonl
from cvft.plan.job import Job
from cvft.recipe import Recipe, load_recipe
from cvft.runs import METRICS_FILE, PREDICTIONS_FILE, RunFolder, find_trained_run, read_metrics

if TYPE_CHECKING:
    from cvft.predict.open import Predictors, Variant

NUM_DIGEST_DIGITS = 8


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


def evaluate_run(job: Job, *, variant: Variant, predictors: Predictors | None = None) -> Evaluation:
    """Answers a run's val rows with one of its models, keeps every prediction and scores them.

    Args:
        job: The job of a trained run.
        variant: `base`, `adapter` or `merged`.
        predictors: The run's models, where others ask them too.

    Returns:
        The evaluation; one with the same settings is not done again.

    Raises:
        RunError: when the run has no val rows, or the model asked for is not there.
        ContractError: when recipe and adapter disagree on the preprocessing.
    """
    folder = find_trained_run(job.loaded)
    all_rows = read_val_rows(folder)
    rows = all_rows[: job.recipe.eval.num_rows]
    settings = _settings(job.recipe, variant, num_rows=len(rows))
    target = folder.evaluation(_name(folder, variant, settings, num_rows=len(all_rows)))
    stored = read_metrics(target)
    if stored is not None and stored["settings"] == settings:
        return Evaluation(target, dict(stored["metrics"]))
    from cvft.predict.open import Predictors

    models = predictors or Predictors(job)
    predictor = models.get(variant)
    with tqdm(total=len(rows), desc=f"answering ({variant})", unit="row", file=sys.stderr, dynamic_ncols=True) as bar:
        answers = predictor.answer(
            rows,
            batch_rows=job.recipe.eval.batch_rows,
            max_new_tokens=job.recipe.eval.max_new_tokens,
            on_progress=bar.update,
        )
    if predictors is None:
        models.close()
    expected = [row.response for row in rows]
    said = [answer.text for answer in answers]
    scores = score_rows(
        said, expected=expected, queries=[row.query for row in rows], kinds=[stated_kind(row) for row in rows]
    )
    metrics = summarize(
        scores,
        predictions=said,
        expected=expected,
        categories=[category_of(row) for row in rows],
        clips=[row.video or index for index, row in enumerate(rows)],
    )
    metrics["num_cut"] = sum(answer.is_cut for answer in answers)
    lines = [
        {**row.to_json(), "prediction": answer.text, "is_cut": answer.is_cut, **score.to_json()}
        for row, answer, score in zip(rows, answers, scores, strict=True)
    ]
    write_whole(target / PREDICTIONS_FILE, to_jsonl(lines))
    # last: a folder with metrics is whole
    text = json.dumps({"settings": settings, "metrics": metrics}, indent=2) + "\n"
    write_whole(target / METRICS_FILE, text)
    return Evaluation(target, metrics)


def stated_kind(row: Row) -> str | None:
    """Returns what a row's column `kind` says of its answer; see `metrics.kinds`."""
    kind = row.extra.get("kind")
    return kind if isinstance(kind, str) else None


def read_val_rows(folder: RunFolder) -> list[Row]:
    """Reads the rows that a run has held out.

    Raises:
        RunError: when there are none.
    """
    if not folder.val_rows.is_file():
        hint = "name a val file (data.val) or a share of the clips (data.val_fraction) and train again"
        problem = Problem("data/val.jsonl", "no val rows", "rows to evaluate", hint)
        raise RunError(f"run folder {folder.path}", [problem])
    return read_rows(folder.val_rows)


def _settings(recipe: Recipe, variant: Variant, *, num_rows: int) -> dict[str, Any]:
    """States what decides the predictions beyond the run itself."""
    return {
        "num_rows": num_rows,
        "max_new_tokens": recipe.eval.max_new_tokens,
        "model": variant,
        "quantize": recipe.model.quantize,
    }


def _name(folder: RunFolder, variant: Variant, settings: dict[str, Any], *, num_rows: int) -> str:
    own = load_recipe(folder.recipe_file).recipe
    own_rows = min(num_rows, own.eval.num_rows or num_rows)
    if settings == _settings(own, variant, num_rows=own_rows):
        return variant
    text = json.dumps(settings, sort_keys=True)
    return f"{variant}-{hashlib.sha256(text.encode()).hexdigest()[:NUM_DIGEST_DIGITS]}"
