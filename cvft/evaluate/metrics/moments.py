"""When something happens: how far a time is from the right one, in seconds and as overlap of intervals.

An answer without a time is a miss: its overlap is 0, and its distance is infinite, so that medians over all rows count it.
"""

from __future__ import annotations

import math

from cvft.data.times import Span

TOLERANCES_S = (0, 1, 2)
"""Distances in seconds within which an instant counts as found."""

OVERLAPS = (0.3, 0.5, 0.7)
"""Overlaps from which an interval counts as found. Source: R@1 of the Charades-STA and ActivityNet Captions benchmarks."""


def overlap(said: Span | None, *, right: Span) -> float:
    """Returns the temporal intersection over union (tIoU).

    Where the right answer is written in whole seconds, second `s` stands for the time from s to s + 1, in the answer too where
    that is whole: `from 3 to 7` is five seconds of video, and one second is not an empty interval. With decimals the ends are
    points in time, as in Charades-STA; then two equal instants have an overlap of 1, and an instant none with anything else.

    Example:
        >>> overlap(Span(4, 7), right=Span(3, 7))
        0.8
        >>> overlap(Span(4.5, 7.0, is_whole=False), right=Span(3.0, 7.5, is_whole=False))
        0.5555555555555556
    """
    if said is None:
        return 0.0
    said_end, right_end = said.end_s, right.end_s
    if right.is_whole:
        right_end += 1
        said_end += said.is_whole
    if (said.start_s, said_end) == (right.start_s, right_end):
        return 1.0
    common = max(0.0, min(said_end, right_end) - max(said.start_s, right.start_s))
    union = (said_end - said.start_s) + (right_end - right.start_s) - common
    return common / union if union else 0.0


def distances(said: Span | None, *, right: Span) -> tuple[float, float]:
    """Returns how far start and end are from the right ones, in seconds; infinite without an answer."""
    if said is None:
        return math.inf, math.inf
    return abs(said.start_s - right.start_s), abs(said.end_s - right.end_s)


def distance(said: Span | None, *, right: Span) -> float:
    """Returns how far an instant is from the right one, in seconds; an interval answers with its middle."""
    return math.inf if said is None else abs(said.middle_s - right.middle_s)
