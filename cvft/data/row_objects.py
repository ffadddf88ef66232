"""Reads a file as numbered objects in native columns: JSON, JSONL, CSV, parquet or tar, in any format of `cvft.data.formats`.

bytes -> what kind of file it is -> objects with their lines -> native columns, or what is wrong in their place

Lines are parsed one after the other, as rows are made of them: of very many, what is not kept need not all be held.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cvft.cards import CARDS
from cvft.data.clip_names import Folder
from cvft.data.file_kinds import explain_file, explain_folder, hint_for_line
from cvft.data.formats.benchmarks import LINE_FORMATS, read_lines
from cvft.data.formats.files import find_kind, read_csv, read_parquet
from cvft.data.formats.shards import is_shard, put_clips, read_shard
from cvft.data.formats.table import adapt_objects
from cvft.errors import DataError, Problem, ValueProblem, did_you_mean, nearest, quote
from cvft.jsonl import parse_json, split_lines
from cvft.row_formats import FormatName

_UTF8_BOM = b"\xef\xbb\xbf"

BYTE_ORDER_MARK = "a byte order mark (BOM)"
"""What a problem says of it: it stands in the first line, of which the row may be good."""

_NEED = "a readable JSON or JSONL file"

_NO_SHARDS = ("native", "csv", "parquet")
"""Values of `data.format` that say that a file is no tar."""

_URL = re.compile(r"(?:^|/)[A-Za-z][A-Za-z0-9+.-]+:/")
"""A URL, also one that was taken for a path, of which two slashes become one."""


@dataclass(frozen=True)
class Objects:
    """What a file holds.

    Args:
        numbered: Native columns of rows with the number of their object; or what is wrong with it, or what is no object. To be
            gone through once.
        is_array: Whether the numbers count items, and not lines.
        format: The format that they were written in.
    """

    numbered: Iterable[tuple[int, Any]]
    is_array: bool
    format: str


def read_objects(path: Path, problems: list[Problem], *, root: Path, format: FormatName, clips: Path | None) -> Objects:
    """Reads a file of any kind and format.

    Args:
        path: The file.
        problems: What is wrong with the file is added to them.
        root: Folder that relative names of clips start from.
        format: How the rows are written, or `auto`.
        clips: Folder to write clips to that lie inside a parquet or tar file.

    Raises:
        DataError: There is nothing that could be parsed, or nobody knows its format; some of it while objects are gone through.
    """
    _refuse_others(path)
    if format == "webdataset" or (format not in _NO_SHARDS and is_shard(path)):
        shard = read_shard(path, clips=clips)
        _, adapted = adapt_objects(shard.objects, source=path, root=root, name=format, is_table=True)
        return Objects(put_clips(adapted, shard), True, "webdataset")
    raw = read_bytes(path)
    objects: Iterable[tuple[int, Any]]
    kind = "lines" if format in LINE_FORMATS else find_kind(path, raw, wanted=format)
    if kind == "lines":
        objects, is_array = read_lines(path, raw), False
    elif kind == "csv":
        objects, is_array = read_csv(path, raw), False
    elif kind == "parquet":
        objects, is_array = read_parquet(path, raw, clips=clips), True
    else:
        objects, is_array = _read_json(path, raw, problems)
    name, adapted = adapt_objects(objects, source=path, root=root, name=format, is_table=kind != "json")
    return Objects(adapted, is_array, name)


def _read_json(path: Path, raw: bytes, problems: list[Problem]) -> tuple[Iterable[tuple[int, Any]], bool]:
    """Returns the JSON objects of a file with their numbers, and whether they are items of an array; adds to its problems.

    Raises:
        DataError: There is nothing that could be parsed.
    """
    if raw.startswith(_UTF8_BOM):
        raw = raw.removeprefix(_UTF8_BOM)
        hint = "save the file as UTF-8 without a byte order mark"
        problems.append(Problem(locate(path, 1), BYTE_ORDER_MARK, "plain UTF-8", hint))
    other = explain_file(path, raw)
    if other is not None:
        raise DataError(f"data {path}", [*problems, other])

    is_array = raw.lstrip()[:1] == b"["
    if is_array and path.suffix == ".jsonl":
        need, hint = "one JSON object per line", f"rename it to {quote(path.with_suffix('.json').name)}"
        problems.append(Problem(locate(path, 1), "a JSON array in a .jsonl file", need, hint))
        raise DataError(f"data {path}", problems)

    return _parse_array(path, raw, problems) if is_array else _parse_lines(raw), is_array


def read_bytes(path: Path) -> bytes:
    """Reads a file of rows.

    Raises:
        DataError: It cannot be read, with what may have been meant.
    """
    _refuse_others(path)
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(
            f"data {path}", [Problem(str(path), f"a file that cannot be read ({reason})", _NEED)]
        ) from error


def _refuse_others(path: Path) -> None:
    """Refuses what is no file.

    Raises:
        DataError: with what may have been meant.
    """
    if path.is_dir():
        raise DataError(f"data {path}", [explain_folder(path)])
    if os.path.exists(path) and not os.path.isfile(path):  # it may never end
        raise DataError(f"data {path}", [Problem(str(path), "a device or a pipe", _NEED, "write the rows to a file")])
    try:
        path.stat()
    except FileNotFoundError as error:
        raise DataError(f"data {path}", [Problem(str(path), "no such file", _NEED, _hint_missing(path))]) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(
            f"data {path}", [Problem(str(path), f"a file that cannot be read ({reason})", _NEED)]
        ) from error


def _hint_missing(path: Path) -> str:
    if _URL.search(str(path)):
        return "URLs are not read: download the file and give its path"
    if "\\" in path.name:
        return "write `/` between folders, and a path on this machine"
    if "," in path.name:
        return "join several files, `cat a.jsonl b.jsonl > all.jsonl`, and name that one"
    if near := nearest(path.name, CARDS, count=1):
        return f"did you mean the dataset {quote(near[0])}? `cvft datasets` lists those that have a name"
    if not path.parent.is_dir():
        return f"there is no folder {quote(path.parent, most=4096)}"
    return did_you_mean(path.name, Folder(path.parent).beside(path.name))


def locate(path: Path, line: int, *, is_item: bool = False) -> str:
    """Names a row as messages do."""
    return f"{path}: item {line}" if is_item else f"{path}:{line}"


def _parse_lines(raw: bytes) -> Iterator[tuple[int, Any]]:
    """Parses each line that is not blank."""
    for line, part in split_lines(raw):
        try:
            yield line, parse_json(part)
        except ValueProblem as error:
            yield line, ValueProblem(error.got, error.need, error.hint or hint_for_line(part))


def _parse_array(path: Path, raw: bytes, problems: list[Problem]) -> list[tuple[int, Any]]:
    try:
        return list(enumerate(parse_json(raw), start=1))
    except ValueProblem as error:
        problems.append(error.at(str(path) if error.line is None else locate(path, error.line)))
        return []
