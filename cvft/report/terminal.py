"""What a run's results look like in a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cvft.tables import NO_NUMBER, Cell, Table, percent, to_text

LABEL_WIDTH, VALUE_WIDTH, COUNT_WIDTH = 17, 10, 8


def metrics_table(metrics: Mapping[str, Mapping[str, Any]], *, title: str = "val exact match") -> str:
    """Sets the exact match of each model, per category and over all rows, and how many answers were cut, if any.

    Args:
        metrics: Who answered ("base", "merged") -> what `compute_metrics` returned; all of the same rows, at least one.
        title: What the rows are.

    Returns:
        Lines without an end of line after the last.
    """
    first = next(iter(metrics.values()))

    def row(label: str, scores: list[Mapping[str, Any]], count: object) -> list[Cell]:
        values = [Cell(percent(score.get("exact_match"), unit="%")) for score in scores]
        return [Cell(label), *values, Cell(str(count))]

    rows = [
        row(f"  {name}", [values.get("categories", {}).get(name, {}) for values in metrics.values()], group["num_rows"])
        for name, group in first.get("categories", {}).items()
    ]
    rows.append(row("all", list(metrics.values()), first["num_rows"]))
    if any(values.get("num_cut") for values in metrics.values()):
        cut = [Cell(str(values.get("num_cut", NO_NUMBER))) for values in metrics.values()]
        rows.append([Cell("cut answers"), *cut, Cell(str(first["num_rows"]))])
    table = Table([title, *metrics, "rows"], rows)
    return to_text(table, min_widths=[LABEL_WIDTH, *[VALUE_WIDTH] * len(metrics), COUNT_WIDTH])
