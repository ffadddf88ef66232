"""Evaluations of several runs side by side: folders that evaluations have written -> tables and sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cvft.errors import Problem, RunError
from cvft.evaluate.judge.results import read_judged
from cvft.evaluate.stored import find_evaluations
from cvft.report.html import write_report
from cvft.report.judged import describe_judged, describe_stale, judged_table
from cvft.report.results import categories_table, kinds_table, results_table
from cvft.report.run import describe_evaluations
from cvft.tables import Table, to_text


@dataclass(frozen=True)
class Compared:
    """Evaluations of the same rows.

    Args:
        metrics: Name -> metrics, in the order given.
        findings: How each does beside the first, in sentences.
        judged: What judges said of them, where one was asked.
    """

    metrics: Mapping[str, Mapping[str, Any]]
    findings: Sequence[str]
    judged: Table | None = None

    def to_text(self) -> str:
        """Returns the tables and sentences for a terminal."""
        tables = [
            results_table(self.metrics),
            categories_table(self.metrics),
            kinds_table(self.metrics),
            self.judged,
        ]
        return "\n\n".join([*(_set(table) for table in tables if table is not None), "\n".join(self.findings)])

    def write_page(self, path: Path) -> Path:
        """Writes the tables and sentences as a page."""
        return write_report(
            path, title="Comparison", summary={}, metrics=self.metrics, findings=self.findings, judged=self.judged
        )


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
    evaluations = find_evaluations(names, subject="cvft compare")
    if len(evaluations) < 2:
        raise RunError("cvft compare", [Problem("RUN", ", ".join(names), "two evaluations or more, each named once")])
    predictions = {name: evaluation.read_predictions() for name, evaluation in evaluations.items()}
    findings = describe_evaluations(predictions)
    judged = {name: read_judged(evaluation) for name, evaluation in evaluations.items()}
    findings += [*describe_judged(judged, predictions=predictions), *describe_stale(judged)]
    metrics = {name: evaluation.metrics for name, evaluation in evaluations.items()}
    return Compared(metrics, findings, judged_table(judged))


def _set(table: Table) -> str:
    return to_text(table, min_widths=[18, *[8] * (len(table.head) - 1)])
