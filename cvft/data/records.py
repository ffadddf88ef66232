"""What a run has recorded of its files, and whether they are the same by now.

clip, row file -> `FileFacts` (hash, size, time) -> RUN/data/clips.json, RUN/manifest.json -> the same file, another one, or none

A file with the recorded size and time is not read again, so that 10^5 clips cost 10^5 looks at a folder; any other is hashed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, Self

from pydantic import TypeAdapter

from cvft.data.rows import Row
from cvft.data.video.spec import (
    ClipRef,
    file_of,
    files_of,
    from_text,
    has_own_times,
    hash_files,
    is_image,
    stat_files,
    to_text,
)
from cvft.data.video.view import ClipView
from cvft.errors import DataError, Problem
from cvft.files import hash_file
from cvft.json_files import read_as


@dataclass(frozen=True)
class FileFacts:
    """What tells a file from another one.

    Args:
        sha256: Hash of its bytes.
        num_bytes: Its size; None where it was not recorded.
        mtime_ns: When it was last written, in nanoseconds; None where it was not recorded.
    """

    sha256: str
    num_bytes: int | None = None
    mtime_ns: int | None = None

    @classmethod
    def of(cls, path: Path) -> Self:
        """Looks at a file and reads it.

        Raises:
            OSError: when it cannot be read.
        """
        found = path.stat()  # before it is read: a file that changes meanwhile is not taken for the one that was read
        return cls(hash_file(path), found.st_size, found.st_mtime_ns)

    def fits(self, path: Path) -> bool:
        """Tells whether a file is the one that was recorded; reads it where size or time are not those.

        Raises:
            OSError: when it cannot be read.
        """
        found = path.stat()
        if (found.st_size, found.st_mtime_ns) == (self.num_bytes, self.mtime_ns):
            return True
        if self.num_bytes is not None and found.st_size != self.num_bytes:
            return False
        return hash_file(path) == self.sha256

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class ClipRecord:
    """What the check of the clips found.

    Args:
        sha256: Hash of its files' bytes; what tells the clip from others is `cvft.data.video.spec.content_of`.
        view: Which frames are shown, and when.
        num_bytes: Size of its files; None where it was not recorded.
        mtime_ns: When the last of them was written, in nanoseconds; None where it was not recorded.
    """

    sha256: str
    view: ClipView
    num_bytes: int | None = None
    mtime_ns: int | None = None

    def fits(self, files: Sequence[Path]) -> bool:
        """Tells whether files are those that were recorded; reads them where size or time are not those.

        Raises:
            OSError: when they cannot be read.
        """
        num_bytes, mtime_ns, _ = stat_files(files)
        if (num_bytes, mtime_ns) == (self.num_bytes, self.mtime_ns):
            return True
        if self.num_bytes is not None and num_bytes != self.num_bytes:
            return False
        return hash_files(files) == self.sha256

    def seen_at(self, clip: ClipRef) -> ClipRecord:
        """Returns the record with size and time of its files, where they are there."""
        try:
            num_bytes, mtime_ns, _ = stat_files(files_of(clip))
        except OSError:
            return self
        return replace(self, num_bytes=num_bytes, mtime_ns=mtime_ns)


_RECORDS = TypeAdapter(
    dict[
        str,
        tuple[str, list[float]]
        | tuple[str, list[float], int | None, int | None]
        | tuple[str, list[float], int | None, int | None, list[int], int, float, int, int],
    ]
)
"""Hash, seconds; size and time of the file; which frames, of how many, frames per second, height, width. Older runs wrote
less."""


def write_records(records: Mapping[ClipRef, ClipRecord]) -> str:
    """Returns the text of `RUN/data/clips.json`."""
    values = {
        to_text(clip): [
            record.sha256,
            list(record.view.timestamps_s),
            record.num_bytes,
            record.mtime_ns,
            list(record.view.frame_indices),
            record.view.num_frames_total,
            record.view.avg_fps,
            record.view.height_px,
            record.view.width_px,
        ]
        for clip, record in records.items()
    }
    return json.dumps(values) + "\n"


def read_records(path: Path) -> dict[ClipRef, ClipRecord]:
    """Reads what a run noted of its clips.

    Args:
        path: `RUN/data/clips.json`.

    Raises:
        DataError: when it is not what a run wrote.
    """
    need, hint = "what the run noted of its clips", "start the run again: cvft train notes them anew"
    records = read_as(path, _RECORDS, error=DataError, subject=str(path), need=need, hint=hint, max_bytes=1 << 30)
    try:
        return {clip: _make_record(clip, values) for clip, values in ((from_text(k), v) for k, v in records.items())}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(str(path), [Problem("a clip's name", f"{error}", need, hint)]) from error


def _make_record(clip: ClipRef, values: Sequence[Any]) -> ClipRecord:
    sha256, seconds, *rest = values
    num_bytes, mtime_ns = rest[:2] or (None, None)
    indices, *sizes = rest[2:] or ((),)
    view = ClipView(tuple(seconds), tuple(indices), *sizes)
    view = replace(view, has_own_times=has_own_times(clip), is_image=is_image(clip))
    return ClipRecord(sha256, view, num_bytes, mtime_ns)


Files = tuple[Path, ...]
"""The files of one clip: one, or those of ready frames."""


def find_files(files: Files, record: ClipRecord, *, video_root: Path | None) -> tuple[Files, bool] | None:
    """Finds the files of a recorded clip: where they were, or under a folder that the clips were moved to.

    Args:
        files: Where they were.
        record: What was recorded of the clip.
        video_root: Folder that they may have been moved to, or None.

    Returns:
        Where they are and whether they are those that were recorded; None when there are no such files.
    """
    here = files if are_there(files) else None
    if here is not None and record.fits(here):
        return here, True
    # the longest tail first: `clips/a.mp4` is more likely meant than another `a.mp4`
    num_shared = len(os.path.commonpath([path.parent for path in files]).split(os.sep))
    starts = [] if video_root is None else range(1, max(2, num_shared + 1))
    moved = [tuple(Path(video_root or "", *path.parts[start:]) for path in files) for start in starts]
    others = [each for each in moved if are_there(each)]
    for other in others:
        if record.fits(other):
            return tuple(path.resolve() for path in other), True
    found = here or next(iter(others), None)
    return None if found is None else (found, False)


def are_there(files: Files) -> bool:
    """Tells whether all files of a clip are there."""
    return all(path.is_file() for path in files)


@dataclass(frozen=True)
class RowDifference:
    """How rows differ from those that were recorded.

    Args:
        first: The first row that is another one; None where rows are only missing.
        num_now: Number of rows now.
        num_before: Number of rows that were recorded.
    """

    first: Row | None
    num_now: int
    num_before: int

    def __str__(self) -> str:
        counts = f"{self.num_now} rows now, {self.num_before} then"
        return counts if self.first is None else f"{self.first.location} is the first that differs, {counts}"


def find_difference(
    rows: Sequence[Row], now: Sequence[str], before: Sequence[str], *, is_ordered: bool
) -> RowDifference | None:
    """Compares rows as they are read now with those that a run has recorded.

    Args:
        rows: The rows now.
        now: What tells each from others: `identify_row`.
        before: The same of the recorded rows.
        is_ordered: Whether the recorded rows are in the order of their file: those that were split are not.

    Returns:
        How they differ, or None when they are the same.
    """
    if list(now) == list(before) or (not is_ordered and Counter(now) == Counter(before)):
        return None
    first: Row | None = None
    if is_ordered:
        pairs = zip_longest(zip(rows, now, strict=True), before)
        first = next((pair[0] for pair, old in pairs if pair is not None and pair[1] != old), None)
    else:
        left = Counter(before)
        for row, key in zip(rows, now, strict=True):
            left[key] -= 1
            if left[key] < 0:
                first = row
                break
    return RowDifference(first, len(now), len(before))


def identify_row(row: Row, names: Sequence[str]) -> str:
    """Returns what tells a row from others, with the files of its clips under the names that are given, one for each."""
    column = "images" if any(map(is_image, row.videos)) else "videos"
    return json.dumps({**row.to_json(), column: list(names)}, sort_keys=True, ensure_ascii=False)


def clip_namer(records: Mapping[ClipRef, ClipRecord]) -> Callable[[Files], str]:
    """Returns what names files by their content, and reads only files that no record tells by name, size and time.

    Args:
        records: What a run noted of its clips, by their places then.
    """
    known = {
        (file_of(clip).name, record.num_bytes, record.mtime_ns): record.sha256
        for clip, record in records.items()
        if record.num_bytes is not None
    }
    names: dict[Files, str] = {}

    def name(files: Files) -> str:
        if files not in names:
            try:
                num_bytes, mtime_ns, _ = stat_files(files)
            except FileNotFoundError:  # of a URL, and not fetched on this machine
                names[files] = f"no file {files[0]}"
                return names[files]
            names[files] = known.get((files[0].name, num_bytes, mtime_ns)) or hash_files(files)
        return names[files]

    return name


def fingerprint_rows(rows: Iterable[Row]) -> str:
    """Returns a sha256 of rows, their clips by name."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row.to_json(), ensure_ascii=False, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def look_at(row: Row) -> tuple[int, int] | None:
    """Returns size and time of the files of a row's clips, which change when one is replaced; None without one, or if gone."""
    if not row.videos:
        return None
    try:
        return stat_files([file for clip in row.videos for file in files_of(clip)])[:2]
    except OSError:
        return None


def fingerprint_looks(rows: Iterable[Row]) -> str:
    """Returns a sha256 of the looks of rows' clips."""
    return hashlib.sha256(json.dumps([look_at(row) for row in rows]).encode()).hexdigest()
