"""The clips of a row: `videos`, and the columns that say what of a file is meant, or when ready frames were taken -> `ClipRef`.

`{"videos": ["long.mp4"], "start": 12, "end": 20.5}`            -> the frames from second 12 of the file up to second 20.5
`{"videos": [["1.jpg", "2.jpg"]], "seconds": [0, 0.5]}`         -> two pictures, half a second apart
`{"videos": ["frames"], "seconds": [0, 0.5]}`                   -> those of a folder, in the order of the numbers in their names
`{"videos": ["a.mp4", "b.mp4"], "start": [12, null]}`           -> two clips, of the first of which a part is shown
`{"images": ["a.jpg"]}`                                         -> a picture, which a model takes as an image
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from cvft.data.media_columns import is_picture, read_images, read_videos, show
from cvft.data.video.spec import LATEST_S, ClipRef, ClipSpec, file_of, make_image, make_ref
from cvft.errors import ValueProblem, quote

CLIP_COLUMNS = ("start", "end", "seconds", "max_frames", "fps")
"""What a row may say of its clips beside their files, each only together with one; null says nothing. Of several clips, each says
a list with an entry for each."""

OF_EACH_CLIP = ("max_frames", "fps")
"""Those that may say one thing of all clips of a row."""

IMAGES = "images"
"""The column of a row's picture, which stands in place of a clip."""

SHOWN_COLUMNS = ("videos", IMAGES, *CLIP_COLUMNS)
"""All columns of a row that say what it shows."""

_NUMBER = re.compile(r"\d+(\.\d*)?|\.\d+")
"""A number as cells of a table hold it: they are text to the letter."""

MIN_STEP_S = 0.001
"""Least time between ready frames: no camera of common use is faster, and models are told seconds with few digits."""

Report = Callable[[str, ValueProblem], None]


class ClipFinder(Protocol):
    """Finds files by the names that rows give them; see `cvft.data.clip_names.ClipNames`."""

    @property
    def urls(self) -> Mapping[Path, str]:
        """Place -> URL, for the files that were found by one."""

    def find(self, name: str) -> Path:
        """Returns a file; raises `ValueProblem`."""

    def frames_in(self, name: str) -> list[Path]:
        """Returns the pictures in a folder; raises `ValueProblem`."""


class NamesAsWritten:
    """Takes every name for what it says: for rows that cvft has written, whose clips may have gone."""

    urls: Mapping[Path, str] = MappingProxyType({})

    def find(self, name: str) -> Path:
        """Returns the file of that name, which may not be there."""
        return Path(name)

    def frames_in(self, name: str) -> list[Path]:
        """Refuses a folder: what cvft writes lists its frames."""
        raise ValueProblem(f"the folder {quote(name)}", "a list of pictures")


def read_clips(columns: Mapping[str, Any], *, finder: ClipFinder, report: Report) -> tuple[ClipRef, ...]:
    """Returns the clips of a row.

    Args:
        columns: The row.
        finder: Finds files.
        report: Takes a column and what is wrong with it.

    Returns:
        The clips; none for a row of text only, and where something is wrong.
    """
    if columns.get(IMAGES) and not columns.get("videos"):
        return _read_images(columns, finder=finder, report=report)
    asked = {name: columns[name] for name in CLIP_COLUMNS if columns.get(name) is not None}
    if asked and not columns.get("videos"):
        name = next(iter(asked))
        hint = f"name the clip in `videos`, or give the column another name: {quote(name)} says what of a clip is meant"
        report(name, ValueProblem(show(columns[name]), "a clip of which it says something", hint))
        return ()
    videos = columns.get("videos")
    if (
        not isinstance(videos, list)
        or len(videos) < 2
        or all(isinstance(each, str) and is_picture(each) for each in videos)
    ):
        return _read_clip(columns, asked, finder=finder, report=report)
    if not asked:
        try:
            return read_videos(videos, finder.find)
        except ValueProblem as error:
            report("videos", error)
            return ()
    found: list[ClipRef] = []
    for each, says in zip(videos, _share_out(asked, len(videos), report), strict=False):
        found += _read_clip({"videos": [each], **says}, says, finder=finder, report=report)
    return tuple(found)


def _share_out(asked: Mapping[str, Any], num_clips: int, report: Report) -> list[dict[str, Any]]:
    """Returns what a row says of each of its several clips; nothing where it is not clear of which it says what."""
    shared: list[dict[str, Any]] = [{} for _ in range(num_clips)]
    is_clear = True
    for name, value in asked.items():
        if isinstance(value, list) and len(value) == num_clips:
            values = value
        elif name in OF_EACH_CLIP and not isinstance(value, list):
            values = [value] * num_clips
        else:
            need = f"a list of {num_clips}, one for each clip, null where nothing is said"
            report(name, ValueProblem(show(value), need))
            is_clear = False
            continue
        for says, each in zip(shared, values, strict=True):
            says |= {} if each is None else {name: each}
    return shared if is_clear else []


def _read_clip(
    columns: Mapping[str, Any], asked: Mapping[str, Any], *, finder: ClipFinder, report: Report
) -> tuple[ClipRef, ...]:
    """Returns the one clip that `videos` names and of which other columns say something; nothing where something is wrong."""
    files: list[Path] = []
    values: dict[str, Any] = {}
    try:
        if "seconds" in asked:
            files = _read_frames(columns["videos"], finder)
        else:
            files = list(read_videos(columns.get("videos"), finder.find))
    except ValueProblem as error:
        report("videos", error)
    for name, value in asked.items():
        try:
            values[name] = _READ[name](value)
        except ValueProblem as error:
            report(name, error)
    start_s, end_s, seconds = values.get("start"), values.get("end"), values.get("seconds", ())
    if end_s is not None and end_s <= (start_s or 0.0):
        report("end", ValueProblem(show(columns["end"]), f"more than `start` ({start_s or 0:g} s)"))
    if not files:
        return ()
    spec = ClipSpec(files[0], start_s, end_s, max_frames=values.get("max_frames"), fps=values.get("fps"))
    if "seconds" not in asked:
        return (make_ref(spec),)
    try:
        ready = clip_of_frames(files, seconds) if seconds else None
        return () if ready is None else (replace(spec, frames=ready.frames, seconds=ready.seconds),)
    except ValueProblem as error:
        report("seconds", error)
        return ()


def _read_images(columns: Mapping[str, Any], *, finder: ClipFinder, report: Report) -> tuple[ClipRef, ...]:
    """Returns the pictures of a row as what stands for its clips."""
    for name in CLIP_COLUMNS:
        if columns.get(name) is not None:
            report(name, ValueProblem(show(columns[name]), "a clip of which it says something, and no picture"))
            return ()
    try:
        paths = list(map(finder.find, read_images(columns[IMAGES])))
        if url := next(filter(None, map(finder.urls.get, paths)), None):
            raise ValueProblem(f"a picture by its URL, {quote(url)}", "a picture of this machine", "download it")
        return tuple(map(make_image, paths))
    except ValueProblem as error:
        report(IMAGES, error)
        return ()


def files_in(columns: Mapping[str, Any]) -> list[str]:
    """Returns the file that each clip of a row that cvft has written is in, of ready frames the first; none for text alone."""
    named = columns.get("videos") or columns.get(IMAGES) or []
    return [each if isinstance(each, str) else each[0] for each in named]


def clip_columns_of(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Returns those columns of a row that cvft has written that say what it is about: its clips, and what of them is meant."""
    return {name: columns[name] for name in SHOWN_COLUMNS if columns.get(name) not in (None, [])}


def clip_of_frames(files: Sequence[Path], seconds: Sequence[float]) -> ClipSpec:
    """Makes a clip of ready frames: for rows, and for whoever is sent pictures with their seconds.

    Args:
        files: The pictures, at least one.
        seconds: When each was taken.

    Raises:
        ValueProblem: when there is not one second for each, rising from 0.
    """
    check_seconds(seconds, num_frames=len(files))
    return ClipSpec(files[0], frames=tuple(files), seconds=tuple(map(float, seconds)))


def check_seconds(seconds: Sequence[float], *, num_frames: int) -> None:
    """Checks when ready frames were taken.

    Args:
        seconds: Finite numbers.
        num_frames: How many frames there are, at least one.

    Raises:
        ValueProblem: when there is not one second for each, rising from 0.
    """
    if len(seconds) != num_frames:
        raise ValueProblem(f"{len(seconds)} seconds", f"{num_frames}, one for each picture")
    if seconds[0] != 0:
        hint = f"take {seconds[0]:g} from all of them: seconds count from the clip's first frame"
        raise ValueProblem(f"{seconds[0]:g} for the first picture", "0", hint)
    late = next((number for number, (a, b) in enumerate(itertools.pairwise(seconds), start=2) if b <= a), None)
    if late is not None:
        got = f"{seconds[late - 1]:g} for picture {late} after {seconds[late - 2]:g}"
        raise ValueProblem(got, "later seconds for later pictures", "are pictures sorted otherwise than seconds?")
    near = next(
        (number for number, (a, b) in enumerate(itertools.pairwise(seconds), start=2) if round(b - a, 9) < MIN_STEP_S),
        None,
    )
    if near is not None:
        got = f"{seconds[near - 1]:g} for picture {near} after {seconds[near - 2]:g}"
        raise ValueProblem(got, f"at least {MIN_STEP_S:g} s between pictures", "seconds, not another unit")
    if seconds[-1] >= LATEST_S:
        raise ValueProblem(
            f"{seconds[-1]:g} for the last picture", f"less than {LATEST_S:g} s", "seconds, not another unit"
        )


def write_clips(clips: Sequence[ClipRef], *, urls: Sequence[str | None] = ()) -> Iterator[tuple[str, Any]]:
    """Yields the columns from which `read_clips` makes clips again: `videos`, and what else there is to say.

    Args:
        clips: The clips.
        urls: Where the file of each was fetched from, in place of its path; or nothing.
    """
    if not clips:
        yield "videos", []
        return
    if len(clips) > 1:
        yield from _write_several(clips, urls or [None] * len(clips))
        return
    (clip,) = clips
    url = urls[0] if urls else None
    spec = clip if isinstance(clip, ClipSpec) else None
    if spec is not None and spec.is_image:
        yield IMAGES, [str(spec.path)]
        return
    elif spec is not None and spec.frames:
        yield "videos", [[str(path) for path in spec.frames]]
        yield "seconds", [_plain(second) for second in spec.seconds]
    else:
        yield "videos", [url or str(file_of(clip))]
    if spec is not None:
        values = {"start": spec.start_s, "end": spec.end_s, "max_frames": spec.max_frames, "fps": spec.fps}
        for name, value in values.items():
            if value is not None:
                yield name, _plain(value)


def _write_several(clips: Sequence[ClipRef], urls: Sequence[str | None]) -> Iterator[tuple[str, Any]]:
    written = [dict(write_clips([clip], urls=[url])) for clip, url in zip(clips, urls, strict=True)]
    for column in ("videos", IMAGES):
        if names := [each[column][0] for each in written if column in each]:
            yield column, names
    for name in CLIP_COLUMNS:
        values = [each.get(name) for each in written]
        if values.count(None) < len(values):
            is_one = name in OF_EACH_CLIP and values.count(values[0]) == len(values)
            yield name, values[0] if is_one else values


def _plain(value: float) -> float:
    return int(value) if value == int(value) else value


def _read_frames(videos: Any, finder: ClipFinder) -> list[Path]:
    """Returns the pictures of a row with `seconds`: one list of them, or one folder."""
    only = videos[0] if isinstance(videos, list) and len(videos) == 1 else None
    if isinstance(only, str):
        return finder.frames_in(only)
    if not isinstance(only, list) or not only or not all(isinstance(each, str) and is_picture(each) for each in only):
        hint = 'write `"videos": [["f/1.jpg", ...]]`; a clip has seconds of its own, without `seconds`'
        raise ValueProblem(show(videos), "one list of pictures, or one folder of them", hint)
    files = [finder.find(each) for each in only]
    if url := next(filter(None, map(finder.urls.get, files)), None):
        raise ValueProblem(f"a picture by its URL, {quote(url)}", "pictures of this machine", "download them")
    return files


def _read_times(value: Any) -> tuple[float, ...]:
    if not isinstance(value, list) or not value:
        raise ValueProblem(show(value), "a list of seconds, one for each picture")
    return tuple(map(_read_seconds, value))


def _read_count(value: Any) -> int:
    number = _read_number(value, "a whole number of frames, 1 or more")
    if number < 1 or number != int(number):
        raise ValueProblem(show(value), "a whole number of frames, 1 or more")
    return int(number)


def _read_rate(value: Any) -> float:
    number = _read_number(value, "a number of frames per second, more than 0")
    if number == 0:
        raise ValueProblem(show(value), "a number of frames per second, more than 0")
    return number


def _read_seconds(value: Any) -> float:
    return _read_number(value, "a number of seconds, 0 or more", "seconds from the first frame of the file")


def _read_number(value: Any, need: str, hint: str = "") -> float:
    """Returns a number that is not below 0; cells of a table hold it as text."""
    is_text = isinstance(value, str) and _NUMBER.fullmatch(value.strip()) is not None
    is_number = is_text or (isinstance(value, int | float) and not isinstance(value, bool))
    try:
        number = float(value) if is_number else math.nan
    except OverflowError:  # a whole number of hundreds of digits
        number = math.inf
    if not 0 <= number < math.inf:
        raise ValueProblem(show(value), need, hint)
    return number


_READ: Mapping[str, Callable[[Any], Any]] = {
    "start": _read_seconds,
    "end": _read_seconds,
    "seconds": _read_times,
    "max_frames": _read_count,
    "fps": _read_rate,
}
"""Column -> what reads it."""
