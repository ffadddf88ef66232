"""The times that an answer names, where they stand in it: text -> pieces, some of which mean seconds.

The reading is `cvft.data.times`, as in the metrics; here it is asked for the smallest parts of a text that are times.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from cvft.data.times import Span, is_time, read_time

_WORD = re.compile(r"\s*(?:[\u3400-\u9fff]|[^\s\u3400-\u9fff]+)")

MAX_WORDS = 12
"""Longest time in words, or in Chinese characters."""

BESIDE_WORDS = 3
"""Words around a time that may say that it was none: `3 to 7 people`, `for 5 seconds`."""

MAX_CHARS = 8000
"""Longest text that is looked through."""


def find_times(text: str) -> list[tuple[str, Span | None]]:
    """Cuts a text into pieces, and says which of them name a time.

    Args:
        text: An answer.

    Returns:
        Pieces that together are the text, each with its time or None.

    Example:
        >>> [(piece, span and span.start_s) for piece, span in find_times("2 men walk from 3 to 7 s, then fall at 0:12.")]
        [('2 men walk', None), (' from 3 to 7 s,', 3.0), (' then fall', None), (' at 0:12.', 12.0)]
        >>> find_times("3 to 7 people")
        [('3 to 7 people', None)]
    """
    whole = read_time(text) if is_time(text) else None
    if whole is not None or len(text) > MAX_CHARS:
        return [(text, whole)]
    words = _WORD.findall(text)
    pieces: list[tuple[str, Span | None]] = []
    begin = at = 0  # of what is no time
    while at < len(words):
        size, span = _time_at(words, at, begin)
        if span is None:
            at += 1
            continue
        if begin < at:
            pieces.append(("".join(words[begin:at]), None))
        pieces.append(("".join(words[at : at + size]), span))
        begin = at = at + size
    rest = "".join(words[begin:]) + text[sum(map(len, words)) :]
    return [*pieces, (rest, None)] if rest or not pieces else pieces


def to_json(pieces: Sequence[tuple[str, Span | None]]) -> list[dict[str, Any]]:
    """Returns pieces for the page."""
    return [
        {"text": text} if span is None else {"text": text, "start_s": span.start_s, "end_s": span.end_s}
        for text, span in pieces
    ]


def _time_at(words: Sequence[str], at: int, begin: int) -> tuple[int, Span | None]:
    """Returns the longest time that begins with a word, and its length in words; what lies before `begin` is another's."""
    if not any(char.isalnum() for char in words[at]):
        return 0, None
    for size in range(min(MAX_WORDS, len(words) - at), 0, -1):
        piece = "".join(words[at : at + size])
        if not is_time(piece):
            continue
        span, end = read_time(piece), at + size + BESIDE_WORDS
        before = "".join(words[max(begin, at - BESIDE_WORDS) : at + size])
        if span is not None and span == read_time("".join(words[at:end])) and read_time(before) is not None:
            return size, span
    return 0, None
