"""Evaluations of several runs side by side: folders that evaluations have written -> tables and sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cvft.errors import Problem, RunError
from cvft.evaluate.run import Evaluation
from cvft.report.html import write_report
from cvft.report.results import categories_table, kinds_table, results_table
from cvft.report.run import describe_evaluations
from cvft.runs import RunFolder, read_metrics
from cvft.tables import Table, to_text

TUNED = ("merged", "adapter")
"""Which evaluation of a run is meant where none is named: the first that is there."""


@dataclass(frozen=True)
class Compared:
    """Evaluations of the same rows.

    Args:
        metrics: Name -> metrics, in the order given.
        findings: How each does beside the first, in sentences.
    """

    metrics: Mapping[str, Mapping[str, Any]]
    findings: Sequence[str]

    def to_text(self) -> str:
        """Returns the tables and sentences for a terminal."""
        tables = [results_table(self.metrics), categories_table(self.metrics), kinds_table(self.metrics)]
        return "\n\n".join([*(_set(table) for table in tables if table is not None), "\n".join(self.findings)])

    def write_page(self, path: Path) -> Path:
        """Writes the tables and sentences as a page."""
        return write_report(path, title="Comparison", summary={}, metrics=self.metrics, findings=self.findings)


def compare_runs(names: Sequence[str]) -> Compared:
    """Compares evaluations that are there; nothing is evaluated.

    Args:
        names: At least two, each `RUN` or `RUN:MODEL`: a run's folder, and which of its evaluations (`base`, `merged`, or any
            other folder of RUN/eval). Without one, the merged model's, else the adapter's.

    Returns:
        The comparison.

    Raises:
        RunError: when there is no such evaluation.
        DataError: when they are not of the same rows.
    """
    problems: list[Problem] = []
    evaluations: dict[str, Evaluation] = {}
    for name in names:
        found = _find(name)
        if isinstance(found, Problem):
            problems.append(found)
        else:
            evaluations[name] = found
    if problems:
        raise RunError("cvft compare", problems)
    if len(evaluations) < 2:
        raise RunError("cvft compare", [Problem("RUN", ", ".join(names), "two evaluations or more, each named once")])
    findings = describe_evaluations({name: evaluation.read_predictions() for name, evaluation in evaluations.items()})
    return Compared({name: evaluation.metrics for name, evaluation in evaluations.items()}, findings)


def _find(name: str) -> Evaluation | Problem:
    path, _, model = name.rpartition(":") if not Path(name).is_dir() and ":" in name else (name, "", "")
    folder = RunFolder(Path(path).absolute())
    candidates = (model,) if model else TUNED
    for candidate in candidates:
        stored = read_metrics(folder.evaluation(candidate))
        if stored is not None:
            return Evaluation(folder.evaluation(candidate), dict(stored["metrics"]))
    there = sorted(each.name for each in folder.eval.iterdir()) if folder.eval.is_dir() else []
    hint = f"evaluated there: {', '.join(there)}" if there else f"run `cvft eval {path} --model {candidates[0]}` first"
    return Problem(name, "no evaluation", f"a run's folder with eval/{' or eval/'.join(candidates)}", hint)


def _set(table: Table) -> str:
    return to_text(table, min_widths=[18, *[8] * (len(table.head) - 1)])
