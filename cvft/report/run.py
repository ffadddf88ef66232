"""The page of a run, from what training, export and evaluation have left in its folder."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cvft.data.rows import Row
from cvft.data.video.loader import DecodeSettings
from cvft.evaluate.compare import compare_predictions
from cvft.evaluate.run import Evaluation, read_val_rows
from cvft.export import VERIFICATION_FILE
from cvft.export.run import describe_verification
from cvft.plan.job import Job
from cvft.report.curves import plot_curves
from cvft.report.html import Answer, Example, write_report
from cvft.report.results import describe_comparison
from cvft.runs import read_manifest

REPORT_VALUES_FILE = "report.json"
"""What the page says, as values, in the run's folder."""

SCHEMA = 1
"""Version of the form of `report.json`."""


def write_run_report(job: Job, *, evaluations: Mapping[str, Evaluation]) -> Path:
    """Writes the curves and the page of a run, and the page's numbers as `report.json`.

    Args:
        job: The job of a trained run.
        evaluations: Evaluation per model, the tuned one last; all of the same rows.

    Returns:
        The page.
    """
    folder = job.run
    log = read_log(folder.train / "logging.jsonl")
    plot_curves(log, folder=folder.path / "curves")
    predictions = {name: evaluation.read_predictions() for name, evaluation in evaluations.items()}
    rows = read_val_rows(folder)[: job.recipe.eval.num_rows]
    frames = collect_frames((row.video for row in rows if row.video is not None), decode=job.preprocessing.decode)
    metrics = {name: evaluation.metrics for name, evaluation in evaluations.items()}
    baseline = score_most_frequent(read_rows(folder.train_rows), rows)
    values: dict[str, Any] = {
        "title": job.recipe.name or "run",
        "headline": describe_headline(metrics),
        "summary": _summarize(job),
        "details": _details(job),
        "metrics": {**metrics, "most frequent training answer": baseline},
        "findings": describe_evaluations(predictions),
    }
    charts = make_charts(log)
    curves = {chart.title: {name: list(points) for name, points in chart.series.items()} for chart in charts}
    text = json.dumps({"schema": SCHEMA, **values, "curves": curves}, indent=2, default=str)
    write_whole(folder.path / REPORT_VALUES_FILE, text + "\n")
    return write_report(folder.report, **values, charts=charts, cards=build_cards(rows, predictions, frames=frames))


def describe_evaluations(predictions: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """Says in sentences how each model does beside the first.

    Args:
        predictions: Who answered -> lines as an evaluation keeps them; all of the same rows.
    """
    names = list(predictions)
    return [
        line
        for name in names[1:]
        for line in describe_comparison(
            compare_predictions(predictions[names[0]], predictions[name]), first=names[0], second=name
        )
    ]


def _summarize(job: Job) -> dict[str, object]:
    recipe, folder = job.recipe, job.run
    rows = read_manifest(folder).rows
    targets = recipe.lora.targets
    summary: dict[str, object] = {
        "model": recipe.model.path,
        "adapter": f"LoRA rank {recipe.lora.rank} on {targets if isinstance(targets, str) else ', '.join(targets)}",
        "train rows": rows.num_train,
        "val rows": rows.num_val,
        "quarantined rows": rows.num_quarantined,
        "inputs": str(job.preprocessing),
        "seed": recipe.seed,
    }
    if (folder.merged / VERIFICATION_FILE).is_file():
        checked = json.loads((folder.merged / VERIFICATION_FILE).read_text(encoding="utf-8"))
        summary["merged equals adapter"] = describe_verification(checked)
    return summary


def _details(job: Job) -> dict[str, object]:
    manifest = read_manifest(job.run)
    packages = {name: found for name, found in manifest["packages"].items() if found}
    changed = [f"{key}={value}" for key, value in job.loaded.changes.items()]
    return {
        "recipe, where it differs from the defaults": ", ".join(changed) or "nowhere",
        "cvft": " ".join(str(word) for word in (manifest["cvft"], manifest["git_commit"]) if word),
        "python": manifest["python"],
        "device": f"{manifest['device']}, {manifest['num_ranks']} rank{'s' if manifest['num_ranks'] > 1 else ''}, {manifest['machine']}",
        "train rows sha256": manifest["rows"]["train_sha256"],
        "val rows sha256": manifest["rows"]["val_sha256"],
        **packages,
    }
