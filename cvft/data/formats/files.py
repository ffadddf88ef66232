"""Files that are no JSON: a CSV or a parquet file -> numbered objects, as a JSON file would give them.

Cells of a CSV file are text, to the letter. Clips that lie inside a parquet file (`Video` of Hugging Face: bytes and path) are
written out where a folder for them is given, and refused elsewhere: nothing that only reads writes files.
"""

from __future__ import annotations

import csv
import datetime
import decimal
import io
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cvft.data.formats.clips_inside import keep_clip
from cvft.errors import DataError, Problem, ValueProblem, quote

_PARQUET = b"PAR1"
_TABLE_NAMES = (".csv", ".tsv")
_DELIMITERS = ",;\t"
_BATCH_ROWS = 256
"""Rows of a parquet file that are held beside those that were read: clips may lie in them."""


def find_kind(path: Path, raw: bytes, *, wanted: str) -> str:
    """Says how a file is read: `csv`, `parquet` or `json`.

    Args:
        path: The file.
        raw: Its bytes.
        wanted: What `data.format` says.

    Returns:
        What it says, where it names a kind of file; else what its first bytes or its name say.
    """
    if wanted in ("csv", "parquet"):
        return wanted
    if wanted == "native":
        return "json"
    if raw.startswith(_PARQUET):
        return "parquet"
    return "csv" if path.suffix.lower() in _TABLE_NAMES and raw.lstrip()[:1] not in (b"{", b"[") else "json"


def read_csv(path: Path, raw: bytes) -> list[tuple[int, Any]]:
    """Reads a CSV file with a head line; the delimiter is the one of `,`, `;` and tab that its head has most of.

    Returns:
        1-based line and columns of each row, or what is wrong with it.

    Raises:
        DataError: It is no text, or its head is none.
    """
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        problem = Problem(f"{path}:{line}", f"byte 0x{raw[error.start]:02x}", "UTF-8 text", "save the file as UTF-8")
        raise DataError(f"data {path}", [problem]) from error
    head_line = text.lstrip("\r\n").partition("\n")[0]
    delimiter = max(_DELIMITERS, key=head_line.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows = _csv_rows(reader)
    _, head = next(rows, (1, []))
    if isinstance(head, ValueProblem):
        raise DataError(f"data {path}", [head.at(f"{path}:1")])
    twice = [name for name, count in Counter(head).items() if count > 1]
    if twice or not all(name.strip() for name in head):
        got = f"the column {quote(twice[0])} more than once" if twice else "a column without a name"
        raise DataError(f"data {path}", [Problem(f"{path}:1", got, "a name for each column in the first line")])
    objects: list[tuple[int, Any]] = []
    for line, cells in rows:
        if isinstance(cells, list) and len(cells) != len(head):
            need = f"{len(head)}, one for each column"
            hint = "put cells in quotes that hold the delimiter or a line end"
            objects.append((line, ValueProblem(f"{len(cells)} cells", need, hint)))
        elif isinstance(cells, list):
            objects.append((line, dict(zip(head, cells, strict=True))))
        else:
            objects.append((line, cells))
    return objects


def _csv_rows(reader: Any) -> Iterator[tuple[int, list[str] | ValueProblem]]:
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield line, ValueProblem(f"no row of a CSV file ({error})", "cells, in quotes where they hold quotes")
            return
        if cells:
            yield line, cells


def read_parquet(path: Path, raw: bytes, *, clips: Path | None) -> list[tuple[int, Any]]:
    """Reads a parquet file.

    Args:
        path: The file.
        raw: Its bytes.
        clips: Folder to write clips to that lie inside it; without one they are refused.

    Returns:
        1-based number and columns of each row, or what is wrong with it.

    Raises:
        DataError: It is no parquet file, or it is damaged.
        OSError: A clip cannot be written.
    """
    import pyarrow  # takes half a second, and few files are of this kind
    import pyarrow.parquet

    if not raw.startswith(_PARQUET):
        problem = Problem(
            str(path), "a file that is not parquet", "a parquet file", "data.format=auto finds what it is"
        )
        raise DataError(f"data {path}", [problem])
    objects: list[tuple[int, Any]] = []
    try:
        file = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(raw))
        for batch in file.iter_batches(batch_size=_BATCH_ROWS):
            for row in batch.to_pylist():
                objects.append((len(objects) + 1, _plain_row(row, clips)))
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk's, not the file's
            raise
        reason = str(error).partition("\n")[0]
        problem = Problem(str(path), f"a parquet file that cannot be read ({reason})", "a whole one", "copy it again")
        raise DataError(f"data {path}", [problem]) from error
    return objects


def _plain_row(row: dict[str, Any], clips: Path | None) -> dict[str, Any] | ValueProblem:
    try:
        return {name: _plain(value, name, clips) for name, value in row.items()}
    except ValueProblem as problem:
        return problem


def _plain(value: Any, name: str, clips: Path | None) -> Any:
    """Returns a value as JSON can hold it.

    Raises:
        ValueProblem: when it is bytes, and no clip that may be written out.
    """
    if isinstance(value, dict) and value.keys() == {"bytes", "path"}:
        return _take_clip(value, name, clips)
    if isinstance(value, dict):
        return {str(key): _plain(each, name, clips) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each, name, clips) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime.date | datetime.time | datetime.timedelta | decimal.Decimal):
        return str(value)
    if isinstance(value, bytes):
        raise ValueProblem(f"bytes in the column {quote(name)}", "text and numbers", "leave the column out")
    return value


def _take_clip(value: dict[str, Any], name: str, clips: Path | None) -> str | None:
    """Returns the path of a clip: that of the file that it came from, or where its bytes were written."""
    inside, path = value["bytes"], value["path"]
    if inside is None:
        return path if path is None else str(path)
    if not isinstance(inside, bytes) or not name.lower().startswith(("video", "clip", "mp4")):
        raise ValueProblem(f"bytes in the column {quote(name)}", "text, numbers and clips", "leave the column out")
    if clips is None:
        hint = "`cvft convert FILE OUT.jsonl` writes the clips beside OUT.jsonl"
        raise ValueProblem(f"a clip inside the file ({len(inside):,} bytes)", "the path of a clip", hint)
    return str(keep_clip(lambda: [inside], clips, ending=Path(str(path)).suffix if path else ""))
