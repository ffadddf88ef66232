"""Kinds of answers, and how a row of each is scored: one table, `KINDS`.

The right answer alone decides what a row's kind is, so that every model is scored on the same rows:

| kind | right answer |
|---|---|
| `choice` | an option of those that the question lists |
| `yes_no` | yes or no |
| `interval` | from one second to another |
| `seconds` | one second |
| `number` | a number |
| `text` | anything else |

A row's column `kind` names its kind where it says one of these words and the right answer can be read so: `12` is a number, or a
second where the row says `seconds`. An answer that cannot be read as its kind is wrong, and is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from cvft.data.times import Span, is_time, read_time
from cvft.evaluate.metrics import moments
from cvft.evaluate.metrics.choices import find_options, read_choice
from cvft.evaluate.metrics.closed import is_number, is_yes_no, read_number, read_yes_no


@dataclass(frozen=True)
class Reading:
    """What was read from an answer, and what it scores.

    Args:
        kind: The row's kind.
        extracted: The answer as it was read, or None where it could not be read.
        scores: Metric -> score. From 0 to 1 for all but distances in seconds, which are infinite without an answer.
    """

    kind: str
    extracted: str | None = None
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Kind:
    """One kind of answers.

    Args:
        name: In metrics.json and in a row's column `kind`.
        applies: Whether a right answer, to a question, is surely of this kind.
        can_be: Whether it can be read as this kind where the row says so.
        read: Prediction, right answer and question -> reading.
        metrics: The scores that `read` returns.
    """

    name: str
    applies: Callable[[str, str], bool]
    can_be: Callable[[str, str], bool]
    read: Callable[[str, str, str], Reading]
    metrics: tuple[str, ...] = ("accuracy",)


def kind_of(expected: str, *, query: str, stated: str | None = None) -> Kind:
    """Returns the kind of a row.

    Args:
        expected: The right answer.
        query: The question.
        stated: What the row itself says that its kind is.

    Returns:
        The stated kind where there is one of that name and the right answer can be read so; else the first that applies.
    """
    said = KINDS.get(stated or "")
    if said is not None and said.can_be(expected, query):
        return said
    return next(kind for kind in KINDS.values() if kind.applies(expected, query))


def is_distance(metric: str) -> bool:
    """Says whether a metric is a distance in seconds, of which less is better."""
    return metric.endswith("_s") and not metric.startswith("within_")


def _compare(kind: str, said: object, right: object) -> Reading:
    shown = None if said is None else f"{said:g}" if isinstance(said, float) else str(said)
    return Reading(kind, shown, {"accuracy": float(said is not None and said == right)})


def _read_choice(prediction: str, expected: str, query: str) -> Reading:
    options = find_options(query)
    return _compare("choice", read_choice(prediction, options=options), read_choice(expected, options=options))


def _is_choice(expected: str, query: str) -> bool:
    options = find_options(query)
    return bool(options) and read_choice(expected, options=options) is not None


def _read_yes_no(prediction: str, expected: str, query: str) -> Reading:
    words = {True: "yes", False: "no", None: None}
    return _compare("yes_no", words[read_yes_no(prediction)], words[read_yes_no(expected)])


def _read_number(prediction: str, expected: str, query: str) -> Reading:
    return _compare("number", read_number(prediction), read_number(expected))


def _read_seconds(prediction: str, expected: str, query: str) -> Reading:
    said, right = read_time(prediction), read_time(expected)
    assert right is not None, "the right answer decides the kind"
    distance = moments.distance(said, right=right)
    scores = {f"within_{limit}_s": float(distance <= limit) for limit in moments.TOLERANCES_S}
    return Reading("seconds", _show(said), {**scores, "error_s": distance})


def _read_interval(prediction: str, expected: str, query: str) -> Reading:
    said, right = read_time(prediction), read_time(expected)
    assert right is not None, "the right answer decides the kind"
    overlap = moments.overlap(said, right=right)
    start, end = moments.distances(said, right=right)
    scores = {f"overlap_{limit}": float(overlap >= limit) for limit in moments.OVERLAPS}
    return Reading("interval", _show(said), {"tiou": overlap, **scores, "start_error_s": start, "end_error_s": end})


def _show(span: Span | None) -> str | None:
    if span is None:
        return None
    return f"{span.start_s:g} to {span.end_s:g} s" if span.is_range else f"{span.start_s:g} s"


def _has_time(expected: str, query: str) -> bool:
    return read_time(expected) is not None


def _is_span(expected: str, query: str) -> bool:
    span = read_time(expected) if is_time(expected) else None
    return span is not None and span.is_range


def _is_instant(expected: str, query: str) -> bool:
    return is_time(expected) and not is_number(expected)


KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("choice", _is_choice, _is_choice, _read_choice),
        Kind(
            "yes_no", lambda right, _: is_yes_no(right), lambda right, _: read_yes_no(right) is not None, _read_yes_no
        ),
        Kind(
            "interval",
            _is_span,
            _has_time,
            _read_interval,
            ("tiou", *(f"overlap_{limit}" for limit in moments.OVERLAPS), "start_error_s", "end_error_s"),
        ),
        Kind(
            "seconds",
            _is_instant,
            _has_time,
            _read_seconds,
            (*(f"within_{limit}_s" for limit in moments.TOLERANCES_S), "error_s"),
        ),
        Kind(
            "number", lambda right, _: is_number(right), lambda right, _: read_number(right) is not None, _read_number
        ),
        Kind("text", lambda *_: True, lambda *_: True, lambda *_: Reading("text"), ()),
    )
}
"""Every kind by name, in the order in which they are tried."""
