"""Turns a JSON or JSONL file of `query`, `response`, `history`, `system`, `videos` into validated rows, and back.

    {"query": "...", "response": "...", "history": [["q", "a"]], "videos": ["clip.mp4"]}  ->  Row

Refuses, naming every line at once: rows without a usable answer, half a history pair, clip files
that are absent or empty, misspelt columns, and text that is not strict UTF-8 JSON. A file is read whole: line numbers
of all problems are worth more here than the last drop of memory.
"""

from __future__ import annotations

import gc
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cvft.data.clip_columns import ClipFinder, write_clips
from cvft.data.fetch.cache import URLS_FOLDER
from cvft.data.row_columns import CATEGORY_COLUMNS, ColumnReader, category_column, category_in
from cvft.data.row_objects import locate, read_bytes, read_objects
from cvft.data.video.spec import ClipRef, file_of, with_budget
from cvft.errors import DataError, Problem, ValueProblem, quote
from cvft.files import sync_folder, write_whole
from cvft.jsonl import parse_json, read_jsonl, to_jsonl, to_line
from cvft.row_formats import FormatName


@dataclass(frozen=True)
class Row:
    """One question with its answer, and the clips that it is about.

    Args:
        query: The question, verbatim.
        response: The answer to learn. Empty only when the file was read with `require_response=False`.
        history: Earlier (question, answer) turns, oldest first.
        videos: The clips, in their order, or pictures in place of them; none for a text-only row. Files are absolute, links
            resolved; that of a URL is there once fetched.
        source: The file that the row came from, as it was named to `read_rows`.
        line: 1-based line of that file, or 1-based item of its JSON array.
        id: The row's own name, if it has one.
        extra: Every other column, kept as read.
        is_item: True when `line` counts items of a JSON array.
        taken_as_text: Columns in which a number or a boolean stood for text.
        had_tags: Whether a tag that stood for a clip was taken out of a question.
        format: The format that it was written in.
        urls: How the row names each of its clips, where it does so by URL: one for each, or none at all where it names no URL.
        system: The row's own system text, never empty; None where the model's stands for it.
    """

    query: str
    response: str
    history: tuple[tuple[str, str], ...]
    videos: tuple[ClipRef, ...]
    source: Path
    line: int
    id: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)
    is_item: bool = False
    taken_as_text: tuple[str, ...] = ()
    had_tags: bool = field(default=False, compare=False)
    format: str = field(default="native", compare=False)
    urls: tuple[str | None, ...] = ()
    system: str | None = None

    @property
    def location(self) -> str:
        """Where the row was read, as messages show it: `FILE:LINE`, or `FILE: item N`."""
        return locate(self.source, self.line, is_item=self.is_item)

    @property
    def files(self) -> tuple[Path, ...]:
        """The file that each of its clips is in, of which other rows may show other stretches."""
        return tuple(map(file_of, self.videos))

    @property
    def clips_by_url(self) -> dict[ClipRef, str]:
        """Clip -> URL, for the clips that it names so."""
        named = zip(self.videos, self.urls, strict=True) if self.urls else ()
        return {clip: url for clip, url in named if url is not None}

    def to_json(self) -> dict[str, Any]:
        """Returns the row as a JSON object that `read_rows` reads back, extra columns last."""
        columns: dict[str, Any] = {} if self.id is None else {"id": self.id}
        columns |= {} if self.system is None else {"system": self.system}
        columns |= {
            "query": self.query,
            "response": self.response,
            "history": [list(turn) for turn in self.history],
        }
        return columns | dict(write_clips(self.videos, urls=self.urls)) | dict(self.extra)


def read_rows(
    path: Path | str,
    *,
    video_root: Path | None = None,
    require_response: bool = True,
    format: FormatName = "native",
    clips: Path | None = None,
    url_cache: Path | None = None,
) -> list[Row]:
    """Reads and validates all rows of a file.

    Args:
        path: A UTF-8 file. `.jsonl` holds one JSON object per line; any other name may also hold one JSON array.
        video_root: Folder that relative clip paths start from; by default the folder of `path`.
        require_response: Whether each row needs an answer. False is for rows that will be answered.
        format: How the rows are written; `auto` finds out.
        clips: Folder to write clips to that lie inside a parquet or tar file; without one they are refused.
        url_cache: Folder that clips named by URL are fetched to, by others; without one they are refused.

    Returns:
        The rows in file order, at least one.

    Raises:
        DataError: With every problem of the file. A clip's existence and size are checked here; whether it is a
            video is the business of `cvft.data.check.check_clips`.

    Source: modelscope/ms-swift 2.x custom dataset examples for `query`, `response`, `history`, `videos`.
    """
    path = Path(path)
    rows, problems = survey_rows(
        path,
        video_root=video_root,
        require_response=require_response,
        format=format,
        clips=clips,
        url_cache=url_cache,
    )
    if problems:
        raise DataError(f"data {path}", problems)
    return rows


def survey_rows(
    path: Path,
    *,
    video_root: Path | None = None,
    require_response: bool = True,
    format: FormatName = "native",
    clips: Path | None = None,
    url_cache: Path | None = None,
) -> tuple[list[Row], list[Problem]]:
    """Reads a file as `read_rows` does, and returns the rows that can be used beside what is wrong with all others.

    Args:
        path: See `read_rows`.
        video_root: See `read_rows`.
        require_response: See `read_rows`.
        format: See `read_rows`.
        clips: See `read_rows`.
        url_cache: See `read_rows`.

    Returns:
        The good rows in file order, and every problem of the file.
    """
    problems: list[Problem] = []
    root = video_root or path.parent
    with _keep_all():
        try:
            objects = read_objects(path, problems, root=root, format=format, clips=clips)
            return _sort_objects(
                objects.numbered,
                source=path,
                video_root=root,
                require_response=require_response,
                is_array=objects.is_array,
                format=objects.format,
                problems=problems,
                url_cache=url_cache,
            )
        except DataError as error:
            return [], list(error.problems)


@contextmanager
def _keep_all() -> Iterator[None]:
    """Spares Python the search for objects that nobody needs any more: a quarter of the time, and rows are all needed."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            if (
                not gc.get_freeze_count()
            ):  # what was made counts as old at once: it is not looked at when something new is
                gc.freeze()
                gc.unfreeze()
            gc.enable()


def make_rows(
    objects: Sequence[tuple[int, Any]],
    *,
    source: Path,
    video_root: Path,
    require_response: bool = True,
    is_array: bool = True,
    problems: Sequence[Problem] = (),
    finder: ClipFinder | None = None,
    url_cache: Path | None = None,
) -> list[Row]:
    """Validates objects as rows.

    Args:
        objects: Each object with its number, from 1.
        source: Where they come from, for messages.
        video_root: Folder that relative clip paths start from.
        require_response: Whether each row needs an answer.
        is_array: Whether the numbers count items, and not lines of a file.
        problems: What is wrong with the source already.
        finder: Finds the files of clips by their names, in place of what looks for them from `video_root`.
        url_cache: See `read_rows`.

    Returns:
        The rows in order, at least one.

    Raises:
        DataError: With every problem.
    """
    rows, problems = _sort_objects(
        objects,
        source=source,
        video_root=video_root,
        require_response=require_response,
        is_array=is_array,
        problems=problems,
        finder=finder,
        url_cache=url_cache,
    )
    if problems:
        raise DataError(f"data {source}", problems)
    return rows


def _sort_objects(
    objects: Iterable[tuple[int, Any]],
    *,
    source: Path,
    video_root: Path,
    require_response: bool,
    is_array: bool,
    problems: Sequence[Problem],
    url_cache: Path | None,
    format: str = "native",
    finder: ClipFinder | None = None,
) -> tuple[list[Row], list[Problem]]:
    """Returns the objects that are rows, and every problem of the others; see `make_rows`."""
    problems = list(problems)
    reader = ColumnReader(
        video_root,
        source=source,
        is_item=is_array,
        format=format,
        require_response=require_response,
        url_cache=url_cache,
        finder=finder,
    )
    rows: list[Row] = []
    for line, columns in objects:
        if isinstance(columns, dict):
            values = reader.read(columns, line=line, problems=problems)
            if values is not None:
                row = object.__new__(Row)
                # all fields at once: one by one, as frozen values set them, takes as long as half of the checks
                object.__setattr__(row, "__dict__", values)
                rows.append(row)
        elif isinstance(columns, ValueProblem):
            problems.append(columns.at(reader.locate(line)))
        else:
            got = f"{_kind(columns)} {quote(json.dumps(columns))}"
            problems.append(Problem(reader.locate(line), got, "a JSON object"))
    if not rows and not problems:
        problems.append(Problem(str(source), "no rows", "at least one row"))
    return rows, problems


def write_rows(rows: Iterable[Row], path: Path | str) -> None:
    """Writes rows as JSONL, whole or not at all, so that `read_rows` gives them back apart from source and line.

    Clip paths are written absolute: the file may then be moved or read with any `video_root`, and the same clip keeps
    one name in every file of a run. The price is that the file belongs to this machine's folders.

    Args:
        rows: The rows, in the order to write.
        path: The file to write; use a `.jsonl` name.

    Raises:
        OSError: The file cannot be written; an older one is left as it was.
    """
    write_whole(Path(path), to_jsonl(row.to_json() for row in rows))


def append_row(row: Row, path: Path) -> None:
    """Adds a row to the end of a JSONL file, which is made when it is absent; what is in it stays.

    Args:
        row: The row. It is on the disk when this returns.
        path: The file.

    Raises:
        DataError: when the file is no JSONL file, or when the row would not read back as it is.
        OSError: when it cannot be written; then it is as it was.
    """
    check_written([row])
    is_new = not os.path.lexists(path)
    old = b"" if is_new else read_bytes(path)
    if not is_new:
        read_jsonl(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    line = to_line(row.to_json()).encode()
    with open(path, "ab", buffering=0) as file:
        left = line if not old or old.endswith(b"\n") else b"\n" + line
        size = file.tell()
        try:
            while left:
                left = left[file.write(left) :]
            os.fsync(file.fileno())
        except OSError:
            file.truncate(size)
            if is_new:
                path.unlink()
            raise
    sync_folder(path.parent)


def check_written(rows: Sequence[Row]) -> None:
    """Proves that rows read back as they are once they are written: what trains is then what is evaluated.

    Raises:
        DataError: with every row that does not.
    """
    lines = [(number, parse_json(to_line(row.to_json()).encode())) for number, row in enumerate(rows, start=1)]
    again = (
        make_rows(
            lines, source=Path("written"), video_root=Path.cwd(), require_response=False, url_cache=Path(URLS_FOLDER)
        )
        if lines
        else []
    )
    problems = [
        Problem(
            row.location, f"a row that becomes {quote(read.query)} when it is read again", "a row that stays as it is"
        )
        for row, read in zip(rows, again, strict=True)
        if row.to_json() != read.to_json()
    ]
    if problems:
        raise DataError("the rows", problems)


def give_budget(rows: Sequence[Row], *, max_frames: int | None, fps: float | None) -> list[Row]:
    """Gives the clips of rows a budget of frames, where they have none of their own.

    Args:
        rows: Rows of one file.
        max_frames: Most frames of a clip; None where the file says nothing of it.
        fps: Frames per second; None where the file says nothing of it.
    """
    if max_frames is None and fps is None:
        return list(rows)
    return [
        replace(row, videos=tuple(with_budget(clip, max_frames=max_frames, fps=fps) for clip in row.videos))
        for row in rows
    ]


def category_of(row: Row) -> str | None:
    """Returns the kind of question that a row asks, by which metrics are also shown one by one.

    Args:
        row: Any row.

    Returns:
        The text, or the number as text, of the row's category column; None without one, or with nothing in it.
    """
    return category_in(row.extra)


def extra_columns(rows: Iterable[Row]) -> dict[str, int]:
    """Counts the columns that are kept but neither trained on nor read as the category, for a caller to show once.

    Args:
        rows: Rows of one or several files.

    Returns:
        Column name -> number of rows that have it, most frequent first, then by name.
    """
    counts = Counter(
        key for row in rows for key in row.extra if key not in (CATEGORY_COLUMNS[0], category_column(row.extra))
    )
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _kind(value: object) -> str:
    names = {list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return names.get(type(value), "null")
