"""What judges said, in tables and sentences: evaluations by name -> who graded them how."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from cvft.errors import quote
from cvft.evaluate.judge.results import Judged, compare_judged
from cvft.evaluate.judge.rubrics import HIGHEST, RUBRICS
from cvft.report.results import describe_score_difference, with_interval
from cvft.tables import NO_NUMBER, Cell, Table, percent, to_text

JudgedByName = Mapping[str, Sequence[Judged]]
"""Name of an evaluation -> what judges said of it."""


def judged_table(judged: JudgedByName) -> Table | None:
    """Sets scores, shares of `yes`, and how many cases have no score: one column per evaluation."""
    rows = []
    for key, found in _by_settings(judged).items():
        label = _label(json.loads(key))
        summaries = [found[name].summary if name in found else {} for name in judged]
        cells = [Cell(_score(each.get("mean_score"), each.get("interval_95"))) for each in summaries]
        rows.append([Cell(f"{label}: score, 0 to {HIGHEST}"), *cells])
        if any("share_yes" in each for each in summaries):
            cells = [
                Cell(with_interval(each.get("share_yes"), each.get("share_yes_interval_95"))) for each in summaries
            ]
            rows.append([Cell(f"{label}: yes"), *cells])
        rows.append([Cell(f"{label}: without a score"), *(Cell(_missing(each)) for each in summaries)])
        if any(each.get("num_missing") for each in summaries):
            cells = [Cell(_score(each.get("mean_score_missing_as_0"), None)) for each in summaries]
            rows.append([Cell(f"{label}: score, those as 0"), *cells])
    return Table(["", *judged], rows) if rows else None


def describe_judged(judged: JudgedByName, *, predictions: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """Says in sentences how each evaluation does beside the first, by those who graded both.

    Args:
        judged: What judges said; all of the same rows.
        predictions: Name of an evaluation -> its lines.
    """
    lines = []
    for key, found in _by_settings(judged).items():
        names = list(found)
        if not names or names[0] != next(iter(judged)):
            continue
        for name in names[1:]:
            difference, num_left_out = compare_judged(found[names[0]], found[name], predictions=predictions[name])
            said = f"{name} against {names[0]}, {_label(json.loads(key))}: {describe_score_difference(difference)}"
            lines.append(said + (f"; {num_left_out} without a score on one side left out" if num_left_out else ""))
    return lines


def describe_scores(judged: JudgedByName) -> str:
    """Sets what a judge said for a terminal: a table, and why cases have no score, each reason with how often it was."""
    table = judged_table(judged)
    assert table is not None, "it was just judged"
    lines = [to_text(table, min_widths=[18, *[8] * len(judged)])]
    for name, found in judged.items():
        for each in found:
            reasons = Counter(line["why_missing"] for line in each.lines if line["score"] is None)
            lines += [
                f"{name}, {each.settings['rubric']}: {count} without a score: {why}" for why, count in reasons.items()
            ]
    return "\n".join(lines)


def describe_stale(judged: JudgedByName) -> list[str]:
    """Says which scores are of answers that were replaced since; they are shown nowhere."""
    return [
        f"What {quote(each.settings['judge'])} said of {name} ({each.settings['rubric']}) is of answers that were replaced "
        "since: judge again (cvft judge)."
        for name, found in judged.items()
        for each in found
        if each.is_stale
    ]


def judged_values(judged: JudgedByName) -> dict[str, list[dict[str, Any]]]:
    """Returns settings and summaries as JSON values."""
    return {
        name: [{"settings": dict(each.settings), **each.summary} for each in found if not each.is_stale]
        for name, found in judged.items()
    }


def _by_settings(judged: JudgedByName) -> dict[str, dict[str, Judged]]:
    found: dict[str, dict[str, Judged]] = {}
    for name, several in judged.items():
        for each in several:
            if not each.is_stale:
                found.setdefault(json.dumps(dict(each.settings), sort_keys=True), {})[name] = each
    order = {name: number for number, name in enumerate(RUBRICS)}
    return dict(sorted(found.items(), key=lambda item: order.get(json.loads(item[0]).get("rubric"), len(order))))


def _label(settings: Mapping[str, Any]) -> str:
    name = settings["rubric"]
    heading = RUBRICS[name].heading if name in RUBRICS else name
    temperature = settings["temperature"]
    return f"{heading} ({settings['judge']}{'' if temperature == 0 else f', temperature {temperature}'})"


def _missing(summary: Mapping[str, Any]) -> str:
    if not summary:
        return NO_NUMBER
    return f"{summary['num_missing']} of {summary['num_cases']} ({percent(summary['share_missing'])})"


def _score(value: object, ends: object) -> str:
    if not isinstance(value, int | float):
        return NO_NUMBER
    said = f"{value:.2f}"
    return f"{said} ({ends[0]:.2f} to {ends[1]:.2f})" if isinstance(ends, list | tuple) else said
