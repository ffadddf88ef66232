"""The clip of a row: `videos`, and the columns that say which part of the file is meant -> `ClipRef`.

`{"videos": ["long.mp4"], "start": 12, "end": 20.5}` -> the frames from second 12 of the file up to second 20.5
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cvft.data.media_columns import read_video, show
from cvft.data.video.spec import ClipRef, ClipSpec, file_of, make_ref
from cvft.errors import ValueProblem, quote

CLIP_COLUMNS = ("start", "end")
"""What a row may say of its clip beside the file, each only together with one; null says nothing."""

_NUMBER = re.compile(r"\d+(\.\d*)?|\.\d+")
"""A number as cells of a table hold it: they are text to the letter."""

Report = Callable[[str, ValueProblem], None]


def read_clip(columns: Mapping[str, Any], *, find: Callable[[str], Path], report: Report) -> ClipRef | None:
    """Returns the clip of a row.

    Args:
        columns: The row.
        find: Finds the file that a name means; raises `ValueProblem`.
        report: Takes a column and what is wrong with it.

    Returns:
        The clip; None for a row of text only, and where something is wrong.
    """
    path: Path | None = None
    asked: dict[str, Any] = {}
    try:
        path = read_video(columns.get("videos"), find)
    except ValueProblem as error:
        report("videos", error)
    for name in CLIP_COLUMNS:
        try:
            if columns.get(name) is not None:
                asked[name] = _read_seconds(columns[name])
        except ValueProblem as error:
            report(name, error)
    start_s, end_s = asked.get("start"), asked.get("end")
    if end_s is not None and end_s <= (start_s or 0.0):
        report("end", ValueProblem(show(columns["end"]), f"more than `start` ({start_s or 0:g} s)"))
    if asked and not columns.get("videos"):
        name = next(iter(asked))
        hint = f"name the clip in `videos`, or give the column another name: {quote(name)} says which part of a clip is meant"
        report(name, ValueProblem(show(columns[name]), "a clip of which it says something", hint))
    return None if path is None else make_ref(ClipSpec(path, start_s=start_s, end_s=end_s))


def write_clip(clip: ClipRef | None) -> Iterator[tuple[str, Any]]:
    """Yields the columns from which `read_clip` makes a clip again: `videos`, and what else there is to say."""
    yield "videos", [] if clip is None else [str(file_of(clip))]
    if isinstance(clip, ClipSpec):
        for name, value in (("start", clip.start_s), ("end", clip.end_s)):
            if value is not None:
                yield name, int(value) if value == int(value) else value


def _read_seconds(value: Any) -> float:
    """Returns a number of seconds; cells of a table hold it as text."""
    is_text = isinstance(value, str) and _NUMBER.fullmatch(value.strip()) is not None
    if isinstance(value, bool) or not (is_text or isinstance(value, int | float)) or not 0 <= float(value) < math.inf:
        raise ValueProblem(show(value), "a number of seconds, 0 or more", "seconds from the first frame of the file")
    return float(value)
