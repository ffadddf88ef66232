"""The results in tables and sentences, for page and terminal alike: what metrics and comparisons returned -> texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cvft.evaluate.compare import Comparison
from cvft.evaluate.metrics.kinds import KINDS, is_distance
from cvft.evaluate.uncertainty import MIN_CLIPS, Difference
from cvft.tables import NO_NUMBER, Cell, Table, percent

Metrics = Mapping[str, Any]
"""What `compute_metrics` returns."""

HEADINGS: Mapping[str, str] = {"exact_match": "Exact match", "token_f1": "Token F1", "rouge_l": "ROUGE-L"}
"""Metrics of every row, with their headings."""

KIND_HEADINGS: Mapping[str, str] = {
    "choice": "multiple choice",
    "yes_no": "yes or no",
    "interval": "interval of seconds",
    "seconds": "second",
    "number": "number",
    "text": "text",
}
"""What the kinds of answers are called."""

GUESSABLE = 0.05
"""How much better a category has to be answered with the clip than without, or it says nothing about the clips."""

_METRIC_HEADINGS: Mapping[str, str] = {"accuracy": "right", "tiou": "mean overlap (tIoU)"}


def results_table(metrics: Mapping[str, Metrics]) -> Table | None:
    """Sets the metrics of every row: one line per model, each with its 95 % interval where there are clips enough."""
    if not metrics:
        return None
    rows = []
    for name, values in metrics.items():
        cells = [Cell(with_interval(values.get(key), values.get("intervals_95", {}).get(key))) for key in HEADINGS]
        counts = [Cell(str(values.get(key, NO_NUMBER))) for key in ("num_rows", "num_empty", "num_cut")]
        rows.append([Cell(name), counts[0], *cells, *counts[1:]])
    return Table(["", "Rows", *HEADINGS.values(), "No answer", "Cut"], rows)


def kinds_table(metrics: Mapping[str, Metrics]) -> Table | None:
    """Sets what the kinds of answers have of their own: one line per metric, one column per model; None for text alone."""
    rows = []
    for kind, heading in KIND_HEADINGS.items():
        groups = [values.get("kinds", {}).get(kind, {}) for values in metrics.values()]
        count = next((group["num_rows"] for group in groups if group), None)
        if count is None or not KINDS[kind].metrics:
            continue
        for metric in (*KINDS[kind].metrics, "num_unread"):
            key = f"median_{metric}" if is_distance(metric) else metric
            cells = [Cell(_kind_value(key, group)) for group in groups]
            rows.append([Cell(f"{heading}: {_name_metric(metric)}"), Cell(str(count)), *cells])
    return Table(["", "Rows", *metrics], rows) if rows else None


def captions_table(metrics: Mapping[str, Metrics]) -> Table | None:
    """Sets BLEU, chrF and CIDEr-D, where right answers are sentences."""
    groups = {name: values["captions"] for name, values in metrics.items() if "captions" in values}
    if not groups:
        return None
    rows = []
    for key, heading in (("bleu", "BLEU"), ("chrf", "chrF"), ("cider_d", "CIDEr-D")):
        cells = [Cell(NO_NUMBER if group[key] is None else f"{group[key]:.2f}") for group in groups.values()]
        rows.append([Cell(heading), *cells])
    return Table(["", *groups], rows)


def describe_captions(metrics: Mapping[str, Metrics]) -> str:
    """Says how the scores of sentences were computed, and what they cannot be compared with."""
    group = next(values["captions"] for values in metrics.values() if "captions" in values)
    return (
        f"BLEU {group['bleu_signature']}, chrF {group['chrf_signature']}, over {group['num_rows']} rows of free text. "
        "CIDEr-D weighs words by these rows' right answers: its numbers cannot be compared across val sets."
    )


def categories_table(metrics: Mapping[str, Metrics]) -> Table | None:
    """Sets the exact match per category, with a bar for each model."""
    by_model = [values.get("categories") or {} for values in metrics.values()]
    rows = []
    for category in dict.fromkeys(name for groups in by_model for name in groups):
        scores = [groups.get(category, {}) for groups in by_model]
        count = next((str(score["num_rows"]) for score in scores if "num_rows" in score), NO_NUMBER)
        rows.append([Cell(str(category)), Cell(count), *(_with_bar(score.get("exact_match")) for score in scores)])
    return Table(["", "Rows", *metrics], rows) if rows else None


def describe_headline(metrics: Mapping[str, Metrics]) -> str:
    """Says what came out in one sentence: the exact match of the first model and of the last."""
    names = list(metrics)
    if not names:
        return ""
    last = metrics[names[-1]]
    rows = f"{last.get('num_rows', 0)} held-out rows"
    said = with_interval(last.get("exact_match"), last.get("intervals_95", {}).get("exact_match"))
    if len(names) == 1:
        return f"{names[0]}: {said} exact match on {rows}"
    return f"exact match on {rows}: {names[0]} {percent(metrics[names[0]].get('exact_match'))}, {names[-1]} {said}"


def describe_comparison(comparison: Comparison, *, first: str, second: str) -> list[str]:
    """Says in sentences what differs between two models: over all rows, and which categories got worse for sure."""
    said = f"{second} against {first}: {describe_difference(comparison.overall)}"
    lines = [f"{said}; {comparison.num_gained} rows won, {comparison.num_lost} lost"]
    worse = [name for name, found in comparison.categories.items() if found is not None and found.high < 0]
    if worse:
        lines.append(f"worse than {first} in {', '.join(worse)}, by more than chance explains")
    return lines


def describe_probe(comparison: Comparison, *, name: str, first: str, second: str) -> list[str]:
    """Says in sentences whether training made a model worse at rows that it is not about."""
    lines = [f"probe {name}: {line}" for line in describe_comparison(comparison, first=first, second=second)]
    if comparison.overall is not None and comparison.overall.high < 0:
        lines.append(f"probe {name}: training made the model worse at it, by more than chance explains")
    return lines


def describe_guesses(guesses: Mapping[str, Metrics], *, tuned: Metrics) -> list[str]:
    """Says what is reached without looking, and which categories can be answered so.

    Args:
        guesses: How it was guessed -> metrics.
        tuned: Metrics of the model that was asked with the clips.
    """
    said = [f"{name}: {percent(values.get('exact_match'))}" for name, values in guesses.items()]
    lines = [f"without looking, exact match is: {'; '.join(said)}"]
    guessable = [
        category
        for category, group in tuned.get("categories", {}).items()
        if group["exact_match"]
        and any(
            values.get("categories", {}).get(category, {}).get("exact_match", 0) >= group["exact_match"] - GUESSABLE
            for values in guesses.values()
        )
    ]
    if guessable:
        lines.append(f"answered as well without looking: {', '.join(guessable)}")
    return lines


def describe_difference(difference: Difference | None) -> str:
    """Says a difference of exact match in points, with its interval and p; or why none is stated."""
    if difference is None:
        return _TOO_FEW
    said = _with_chance(difference, "points of exact match", factor=100, digits=1)
    if difference.low <= 0 <= difference.high:
        said += f"; a true difference under {100 * difference.smallest_visible:.0f} points would mostly not show"
    return said


def describe_score_difference(difference: Difference | None) -> str:
    """Says a difference of a judge's scores, with its interval and p; or why none is stated."""
    if difference is None:
        return _TOO_FEW
    said = _with_chance(difference, "of a judge's score", factor=1, digits=2)
    if difference.low <= 0 <= difference.high:
        said += f"; a true difference under {difference.smallest_visible:.2g} would mostly not show"
    return said


_TOO_FEW = f"fewer than {MIN_CLIPS} clips, too few to say whether a difference is chance"


def _with_chance(difference: Difference, unit: str, *, factor: float, digits: int) -> str:
    values = [f"{factor * value:+.{digits}f}" for value in (difference.mean, difference.low, difference.high)]
    p = f"p = {difference.p:.2g}" if difference.p >= 0.001 else "p < 0.001"
    return f"{values[0]} {unit}, 95 % from {values[1]} to {values[2]}, {p} ({difference.num_clips} clips)"


def with_interval(value: object, ends: object) -> str:
    """Returns a share in per cent, with its interval where there is one: `98.2 % (96.1 to 99.4)`."""
    said = percent(value)
    if isinstance(ends, list | tuple):
        said += f" ({100 * ends[0]:.1f} to {100 * ends[1]:.1f})"
    return said


def _kind_value(key: str, group: Mapping[str, Any]) -> str:
    value = group.get(key)
    if key == "num_unread" or value is None:
        return NO_NUMBER if value is None else str(value)
    if key.startswith("median_"):
        return f"{value:.3g} s"
    return with_interval(value, group.get("intervals_95", {}).get(key))


def _name_metric(metric: str) -> str:
    if metric == "num_unread":
        return "answers that could not be read"
    if metric.startswith("within_"):
        return f"within {metric.split('_')[1]} s"
    if metric.startswith("overlap_"):
        return f"overlap of {metric.split('_')[1]} or more"
    if is_distance(metric):
        return f"median {metric.removesuffix('_s').replace('_', ' ')}"
    return _METRIC_HEADINGS[metric]


def _with_bar(value: object) -> Cell:
    return Cell(percent(value), share=float(value) if isinstance(value, int | float) else None)
