"""Predictions and right answers -> what each row scores, and the means over all rows, per kind of answer and per category.

Every row counts: an answer that is empty or cannot be read scores 0 and is never left out, so no metric's denominator depends on
what a model said. Distances in seconds are medians, in which a missing time counts as infinitely far.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from cvft.evaluate.metrics.captions import score_captions
from cvft.evaluate.metrics.closed import closed_set, confusion, macro_f1, plain_label, read_label
from cvft.evaluate.metrics.kinds import KINDS, Reading, is_distance, kind_of
from cvft.evaluate.metrics.overlap import RougeL, is_exact_match, token_f1
from cvft.evaluate.uncertainty import share_interval

METRIC_NAMES: tuple[str, ...] = ("exact_match", "token_f1", "rouge_l")
"""The metrics of every row, each from 0 to 1."""

LABEL_KINDS = ("text", "yes_no")
"""Kinds of answers that can be labels of a closed set; numbers and times have distances instead."""


@dataclass(frozen=True)
class RowScore:
    """What one row scores.

    Args:
        is_empty: Whether nothing was answered.
        text: `METRIC_NAMES` -> score.
        reading: What was read from the answer, by the kind of the row.
    """

    is_empty: bool
    text: dict[str, float]
    reading: Reading

    def to_json(self) -> dict[str, Any]:
        """Returns what a line of predictions says of it; an infinite distance is null."""
        scores = {name: None if math.isinf(score) else score for name, score in self.reading.scores.items()}
        extracted = {} if self.reading.kind == "text" else {"extracted": self.reading.extracted}
        return {"is_exact_match": bool(self.text["exact_match"]), "kind": self.reading.kind, **extracted, **scores}


def score_rows(
    predictions: Sequence[str],
    *,
    expected: Sequence[str],
    queries: Sequence[str] | None = None,
    kinds: Sequence[str | None] | None = None,
) -> list[RowScore]:
    """Scores each row by itself, in order.

    Args:
        predictions: One answer per row; an empty one counts as wrong.
        expected: The right answer of each row.
        queries: The question of each row: options of a multiple choice stand there.
        kinds: The kind of answer that a row states, or None; see `kinds.KINDS`.
    """
    assert len(predictions) == len(expected), "one prediction per row"
    rouge = RougeL()
    rows = []
    for index, (said, right) in enumerate(zip(predictions, expected, strict=True)):
        query = "" if queries is None else queries[index]
        kind = kind_of(right, query=query, stated=None if kinds is None else kinds[index])
        text = {
            "exact_match": float(is_exact_match(said, expected=right)),
            "token_f1": token_f1(said, expected=right),
            "rouge_l": rouge.score(said, expected=right),
        }
        rows.append(RowScore(not said.strip(), text, kind.read(said, right, query)))
    return rows


def compute_metrics(
    predictions: Sequence[str],
    *,
    expected: Sequence[str],
    categories: Sequence[str | None] | None = None,
    queries: Sequence[str] | None = None,
    kinds: Sequence[str | None] | None = None,
    clips: Sequence[Hashable] | None = None,
) -> dict[str, Any]:
    """Scores all rows and sums them up: `score_rows`, then `summarize`."""
    scores = score_rows(predictions, expected=expected, queries=queries, kinds=kinds)
    return summarize(scores, predictions=predictions, expected=expected, categories=categories, clips=clips)


def summarize(
    scores: Sequence[RowScore],
    *,
    predictions: Sequence[str],
    expected: Sequence[str],
    categories: Sequence[str | None] | None = None,
    clips: Sequence[Hashable] | None = None,
) -> dict[str, Any]:
    """Sums up what all rows score.

    Args:
        scores: What `score_rows` returned.
        predictions: One answer per row.
        expected: The right answer of each row.
        categories: The kind of question (category) of each row, or None where a row has none.
        clips: The clip of each row, for intervals: rows of one clip are drawn together. Without it no interval is stated.

    Returns:
        `num_rows`, `num_empty` and the mean of each metric; without rows the means are None, for no number would be true.
        `kinds`: per kind of answer `num_rows`, `num_unread` and its own metrics. `captions`: see `score_captions`. `labels`:
        accuracy, macro-F1 and confusion matrix, where the right answers are from a closed set. With clips, `num_clips` and
        `intervals_95`: the ends of the interval of each mean. With categories, `categories`: the same per category, in order of
        name.
    """

    def sum_up(indices: Sequence[int]) -> dict[str, Any]:
        return _summarize(
            [scores[index] for index in indices],
            predictions=[predictions[index] for index in indices],
            expected=[expected[index] for index in indices],
            clips=_pick(clips, indices),
        )

    result = sum_up(range(len(scores)))
    if categories is not None and any(categories):
        assert len(categories) == len(scores), "one category per row"
        groups: dict[str, list[int]] = {}
        for index, category in enumerate(categories):
            if category:
                groups.setdefault(category, []).append(index)
        result["categories"] = {category: sum_up(groups[category]) for category in sorted(groups)}
    return result


def _summarize(
    rows: Sequence[RowScore], *, predictions: Sequence[str], expected: Sequence[str], clips: Sequence[Hashable] | None
) -> dict[str, Any]:
    result: dict[str, Any] = {
        "num_rows": len(rows),
        **{name: _mean([row.text[name] for row in rows]) for name in METRIC_NAMES},
        "num_empty": sum(row.is_empty for row in rows),
    }
    of_kind = {name: [index for index, row in enumerate(rows) if row.reading.kind == name] for name in KINDS}
    result["kinds"] = {
        name: _summarize_kind([rows[index].reading for index in indices], clips=_pick(clips, indices))
        for name, indices in of_kind.items()
        if indices
    }
    free = of_kind["text"]
    captions = score_captions([predictions[index] for index in free], expected=[expected[index] for index in free])
    if captions is not None:
        result["captions"] = {"num_rows": len(free), **captions}
    labels = closed_set(expected) if all(row.reading.kind in LABEL_KINDS for row in rows) else None
    if labels is not None:
        said = [read_label(prediction, labels=labels) for prediction in predictions]
        right = [plain_label(answer) for answer in expected]
        result["labels"] = {
            "accuracy": _mean([float(one == other) for one, other in zip(said, right, strict=True)]),
            "macro_f1": macro_f1(said, right=right, labels=labels),
            "labels": labels,
            "confusion": confusion(said, right=right, labels=labels),
        }
    if clips is not None:
        result["num_clips"] = len(set(clips))
        result["intervals_95"] = {
            name: share_interval([row.text[name] for row in rows], clips=clips) for name in METRIC_NAMES
        }
    return result


def _summarize_kind(readings: Sequence[Reading], *, clips: Sequence[Hashable] | None) -> dict[str, Any]:
    result: dict[str, Any] = {"num_rows": len(readings)}
    kind = KINDS[readings[0].kind]
    if kind.metrics:
        result["num_unread"] = sum(reading.extracted is None for reading in readings)
    for metric in kind.metrics:
        values = [reading.scores[metric] for reading in readings]
        if is_distance(metric):
            middle = median(values)
            # without a time in half of the answers there is no middle
            result[f"median_{metric}"] = None if math.isinf(middle) else middle
        else:
            result[metric] = _mean(values)
            if clips is not None:
                result.setdefault("intervals_95", {})[metric] = share_interval(values, clips=clips)
    return result


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _pick(clips: Sequence[Hashable] | None, indices: Sequence[int]) -> list[Hashable] | None:
    return None if clips is None else [clips[index] for index in indices]
