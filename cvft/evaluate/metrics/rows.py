"""Rows and what was said to them -> scores, means, and single numbers by name, for whoever measures while training.

The same for an evaluation and for a training: what a training chooses its checkpoint by is what an evaluation of it would say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cvft.data.connected import name_connected
from cvft.data.rows import Row, category_of
from cvft.evaluate.metrics.kinds import KINDS
from cvft.evaluate.metrics.scoring import METRIC_NAMES, RowScore, score_rows, summarize

LABEL_METRICS = {"label_accuracy": "accuracy", "macro_f1": "macro_f1"}
"""What a closed set of labels is summed up in: name of the single number -> name in `labels` of a summary."""

CAPTION_METRICS = ("bleu", "chrf", "cider_d")


def stated_kind(row: Row) -> str | None:
    """Returns what a row's column `kind` says of its answer; see `metrics.kinds`."""
    kind = row.extra.get("kind")
    return kind if isinstance(kind, str) else None


def score_answers(rows: Sequence[Row], said: Sequence[str]) -> tuple[list[RowScore], dict[str, Any]]:
    """Scores what was said to rows.

    Args:
        rows: The rows, with their right answers.
        said: One answer per row.

    Returns:
        The score of each row, and their summary: see `summarize`.
    """
    expected = [row.response for row in rows]
    scores = score_rows(
        said, expected=expected, queries=[row.query for row in rows], kinds=[stated_kind(row) for row in rows]
    )
    summary = summarize(
        scores,
        predictions=said,
        expected=expected,
        categories=[category_of(row) for row in rows],
        clips=clips_of(rows),
    )
    return scores, summary


def clips_of(rows: Sequence[Row]) -> list[str | int]:
    """Returns what tells apart the rows that are right or wrong together: their files, and those that any row shows with them.

    Args:
        rows: The rows.

    Returns:
        A name for each; a row of text only has its own number.
    """
    return name_connected([[*map(str, row.files)] for row in rows])


def single_numbers(summary: Mapping[str, Any]) -> dict[str, float]:
    """Returns the numbers of a summary that can be followed over a training, by names without a hierarchy.

    Which there are depends on the right answers alone.

    Args:
        summary: What `score_answers` returned.
    """
    numbers = {name: summary[name] for name in METRIC_NAMES}
    numbers |= {name: summary.get("captions", {}).get(name) for name in CAPTION_METRICS}
    numbers |= {name: summary.get("labels", {}).get(key) for name, key in LABEL_METRICS.items()}
    for kind, group in summary["kinds"].items():
        numbers |= {f"{kind}_{metric}": group.get(metric) for metric in KINDS[kind].metrics}
    return {name: float(value) for name, value in numbers.items() if value is not None}


def metrics_of(rows: Sequence[Row]) -> list[str]:
    """Returns the names of the numbers that answers to some rows would be summed up in.

    Args:
        rows: The rows, at least one.
    """
    _, summary = score_answers(rows, [row.response for row in rows])
    return list(single_numbers(summary))


def spread_evenly(num_rows: int, count: int | None) -> list[int]:
    """Picks rows over the whole length of a file: the same ones whenever it is asked.

    Args:
        num_rows: Rows of the file.
        count: How many to pick at most; None picks none.

    Returns:
        Their numbers from 0, in order.

    Example:
        >>> spread_evenly(10, 4)
        [0, 2, 5, 7]
    """
    count = min(count or 0, num_rows)
    return [index * num_rows // count for index in range(count)]
