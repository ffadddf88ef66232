"""The page of a run, from what training, export and evaluation have left in its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cvft.errors import CvftError, Problem, RunError
from cvft.evaluate.baselines import score_most_frequent
from cvft.evaluate.compare import compare_predictions
from cvft.evaluate.judge.results import read_judged
from cvft.evaluate.run import BLIND, Evaluation, find_probes
from cvft.export import VERIFICATION_FILE
from cvft.export.run import describe_verification, read_verification
from cvft.files import write_whole
from cvft.manifest import read_manifest
from cvft.plan.health import read_health
from cvft.plan.job import Job, open_job
from cvft.plan.recorded import read_recorded, read_stored
from cvft.recipe import LoadedRecipe
from cvft.report.answered import follow_answers
from cvft.report.cards import build_cards
from cvft.report.curves import Pace, make_charts, plot_curves
from cvft.report.frames import collect_frames
from cvft.report.html import ProbeSet, write_report
from cvft.report.judged import describe_judged, describe_stale, judged_table, judged_values
from cvft.report.results import describe_comparison, describe_guesses, describe_headline, describe_probe
from cvft.runs import RunFolder, describe_adapter, is_claimed, read_chosen, read_metrics, read_notes
from cvft.training_log import read_log, read_step_times, read_val_answers

REPORT_VALUES_FILE = "report.json"
"""What the page says, as values, in the run's folder."""

BASELINE = "most frequent answer"
"""What answering without a model is called: see `score_most_frequent`."""

WITHOUT_CLIPS = ", no clip"
"""What is added to the name of a model that was asked without the clips."""

LOG_FILE = "logging.jsonl"
"""What a training logs, in RUN/train."""

SCHEMA = 1
"""Version of the form of `report.json`."""


def rewrite_report(loaded: LoadedRecipe) -> Path:
    """Writes a run's page from what is stored in its folder; nothing is trained or evaluated.

    Args:
        loaded: The recipe of a run, trained or still in training.

    Returns:
        The page.

    Raises:
        RunError: when the run has logged nothing yet, or the folder belongs to another recipe.
    """
    folder = RunFolder(loaded.recipe.run_dir.absolute())
    if not is_claimed(loaded) or not (folder.train / LOG_FILE).is_file():
        hint = f"start it: cvft run {loaded.path}"
        raise RunError(
            f"run folder {folder.path}", [Problem(f"train/{LOG_FILE}", "no such file", "a run that trains", hint)]
        )
    evaluations: dict[str, Evaluation] = {}
    for names in (("base",), ("merged", "adapter")):
        for name in names:
            stored = read_metrics(folder.evaluation(name))
            if stored is not None:
                evaluations[name] = Evaluation(folder.evaluation(name), dict(stored["metrics"]))
                break
    blind = None
    if evaluations:
        target = folder.evaluation(f"{list(evaluations)[-1]}{BLIND}")
        stored = read_metrics(target)
        blind = None if stored is None else Evaluation(target, dict(stored["metrics"]))
    job = open_job(loaded, needs_weights=False)
    # of what the page is about, and before that of whichever there are
    probes = find_probes(folder, job.recipe, list(evaluations) or ["base", "adapter", "merged"])
    return write_run_report(job, evaluations=evaluations, blind=blind, probes=probes).path


@dataclass(frozen=True)
class RunReport:
    """The page of a run.

    Args:
        path: The page.
        findings: What its numbers say, in sentences.
    """

    path: Path
    findings: Sequence[str]


def write_run_report(
    job: Job,
    *,
    evaluations: Mapping[str, Evaluation],
    blind: Evaluation | None = None,
    probes: Mapping[str, Mapping[str, Evaluation]] | None = None,
    refused: CvftError | None = None,
) -> RunReport:
    """Writes the curves and the page of a run, and the page's numbers as `report.json`.

    Args:
        job: The job of a run.
        evaluations: Evaluation per model, the tuned one last; all of the same rows. None yet for a run that still trains.
        blind: The tuned model's answers without the clips, where it was asked so.
        probes: Name of a probe set -> evaluation per model, the tuned one last.
        refused: Why there is no merged model, where one was asked for.

    Returns:
        The page.
    """
    folder = job.run
    log = read_log(folder.train / LOG_FILE)
    manifest, select_by = read_manifest(folder), job.recipe.train.select_by
    times = read_step_times(folder.earlier_progress_file, folder.progress_file)
    pace = Pace(times, manifest.rows.num_train, job.recipe.train.global_batch_rows, manifest.device)
    plot_curves(log, folder=folder.path / "curves")
    predictions = {name: evaluation.read_predictions() for name, evaluation in evaluations.items()}
    metrics = {name: evaluation.metrics for name, evaluation in evaluations.items()}
    warnings = [f"Training: {note}." for note in read_notes(folder)]
    if refused is not None:
        warnings.append(f"The merged model was refused; the adapter is what was evaluated.\n{refused}")
    values: dict[str, Any] = {
        "title": job.recipe.name or "run",
        "headline": describe_headline(metrics),
        "summary": _summarize(job, is_merged=refused is None),
        "details": _details(job),
        "warnings": warnings,
        "metrics": metrics,
        "findings": describe_evaluations(predictions),
        "health": read_health(folder),
        "answered": follow_answers(read_val_answers(folder.answers_file)),
    }
    judged = {name: read_judged(evaluation) for name, evaluation in evaluations.items()}
    warnings += describe_stale(judged)
    cards = None
    if predictions:
        recorded = read_recorded(folder, "val", recipe=job.recipe)
        rows = recorded.all_rows[: min(map(len, predictions.values()))]
        frames = collect_frames((clip for row in rows for clip in row.videos), decode=job.preprocessing.decode)
        cards = build_cards(rows, predictions, frames=frames)
        guesses = {BASELINE: score_most_frequent(read_stored(folder.train_rows), rows)}
        if blind is not None:
            guesses[f"{list(metrics)[-1]}{WITHOUT_CLIPS}"] = blind.metrics
        values["findings"] = [*values["findings"], *describe_guesses(guesses, tuned=metrics[list(metrics)[-1]])]
        values["findings"] += describe_judged(judged, predictions=predictions)
        values["metrics"] = {**guesses, **metrics}
    probe_sets = [describe_probe_set(name, answered) for name, answered in (probes or {}).items() if answered]
    values["findings"] = [*values["findings"], *(line for each in probe_sets for line in each.findings)]
    charts = make_charts(log, pace=pace, select_by=select_by)
    curves = {chart.title: {name: list(points) for name, points in chart.series.items()} for chart in charts}
    stored = {"schema": SCHEMA, **values, "judged": judged_values(judged), "curves": curves}
    stored["probes"] = {each.name: each.metrics for each in probe_sets}
    write_whole(folder.path / REPORT_VALUES_FILE, json.dumps(stored, indent=2, default=str) + "\n")
    page = write_report(
        folder.report, **values, judged=judged_table(judged), probes=probe_sets, charts=charts, cards=cards
    )
    return RunReport(page, values["findings"])


def describe_probe_set(name: str, answered: Mapping[str, Evaluation]) -> ProbeSet:
    """Returns the numbers of a probe set, and what they say of each model beside the first.

    Args:
        name: Its name.
        answered: Model -> evaluation of its rows, the tuned one last.
    """
    predictions = {model: evaluation.read_predictions() for model, evaluation in answered.items()}
    first, *others = predictions
    findings = [
        line
        for model in others
        for line in describe_probe(
            compare_predictions(predictions[first], predictions[model]), name=name, first=first, second=model
        )
    ]
    return ProbeSet(name, {model: evaluation.metrics for model, evaluation in answered.items()}, findings)


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


def _summarize(job: Job, *, is_merged: bool) -> dict[str, object]:
    recipe, folder = job.recipe, job.run
    rows = read_manifest(folder).rows
    targets = recipe.lora.targets
    whole = ", and the whole projector" if recipe.lora.train_projector == "full" else ""
    summary: dict[str, object] = {
        "model": recipe.model.path,
        "adapter": f"LoRA rank {recipe.lora.rank} on {targets if isinstance(targets, str) else ', '.join(targets)}{whole}",
        "train rows": rows.num_train,
        "val rows": rows.num_val,
        "quarantined rows": rows.num_quarantined,
        "inputs": str(job.preprocessing),
        "seed": recipe.seed,
    }
    if (chosen := read_chosen(folder)) is not None:
        summary["adapter is"] = describe_adapter(chosen)
        if chosen.ended_early:
            summary["ended early"] = chosen.ended_early
    if is_merged and (folder.merged / VERIFICATION_FILE).is_file():
        summary["merged equals adapter"] = describe_verification(read_verification(folder.merged))
    return summary


def _details(job: Job) -> dict[str, object]:
    manifest = read_manifest(job.run)
    changed = job.recipe.model_dump(mode="json", exclude_defaults=True)
    return {
        "settings other than the defaults": json.dumps(changed, ensure_ascii=False),
        "cvft": " ".join(word for word in (manifest.cvft, manifest.git_commit) if word),
        "python": manifest.python,
        "device": f"{manifest.device}, {manifest.machine}, {manifest.num_ranks} process{'es' if manifest.num_ranks > 1 else ''}",
        "train rows, sha256": manifest.rows.train_sha256,
        "val rows, sha256": manifest.rows.val_sha256,
        **{name: found for name, found in manifest.packages.items() if found},
    }
