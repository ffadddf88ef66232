"""Says what a file is that holds no rows in JSON or JSONL: by its first bytes, its text, or its name.

"Not read" is not "broken": whoever gives a parquet file is told that it is one, and how it becomes JSONL.
"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

from cvft.data.row_columns import holds_conversation, names_a_column
from cvft.errors import Problem, quote

NEED = "one JSON object per line, or one JSON list of objects"

_NUM_LOOKED_AT = 1000
"""Bytes in which more is looked for behind the first line."""

_PANDAS = "pandas"
_TABLE = "table"
_PACKED = "packed"

_MAGIC = (
    (b"PAR1", "a parquet file", _PANDAS, "read_parquet"),
    (b"ARROW1", "an Arrow file", _PANDAS, "read_feather"),
    (b"\xd0\xcf\x11\xe0", "an Excel file", _PANDAS, "read_excel"),
    (b"\x1f\x8b", "a gzip file", _PACKED, "gunzip -c"),
    (b"BZh", "a bzip2 file", _PACKED, "bunzip2 -c"),
    (b"\xfd7zXZ\x00", "an xz file", _PACKED, "unxz -c"),
    (b"\x28\xb5\x2f\xfd", "a zstandard file", _PACKED, "unzstd -c"),
    (b"PK\x03\x04", "a zip file", _PACKED, "unzip -p"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z file", "", "unpack it"),
    (b"Rar!", "a rar file", "", "unpack it"),
    (b"SQLite format 3\x00", "an SQLite database", "", "write its rows as JSONL"),
    (b"\x89HDF", "an HDF5 file", "", "write its rows as JSONL"),
    (b"\x93NUMPY", "a NumPy file", "", "write its rows as JSONL"),
    (b"\x80\x04", "a pickle file", "", "write its rows as JSONL"),
    (b"\x80\x05", "a pickle file", "", "write its rows as JSONL"),
    (b"%PDF", "a PDF file", "", ""),
    (b"\x1a\x45\xdf\xa3", "a video file (mkv, webm)", "", "name clips in the column `videos` of the rows"),
    (b"RIFF", "a media file (avi, wav, webp)", "", "name clips in the column `videos` of the rows"),
    (b"version https://git-lfs", "a Git LFS pointer in place of the file", "", "fetch the file: `git lfs pull`"),
)
"""First bytes -> what the file is, how such a file is read, and the function, the command or the whole advice."""

_NAMES = {
    ".csv": ("a CSV file", _TABLE, "read_csv"),
    ".tsv": ("a TSV file", _TABLE, "read_table"),
    ".xlsx": ("an Excel file", _PANDAS, "read_excel"),
    ".arrow": ("an Arrow file", _PANDAS, "read_feather"),
    ".yaml": ("a YAML file", "", "write its rows as JSONL"),
    ".yml": ("a YAML file", "", "write its rows as JSONL"),
    ".xml": ("an XML file", "", "write its rows as JSONL"),
}
"""Ends of names -> the same, for text that is no JSON, and bytes that have no mark of their own."""


def explain_folder(path: Path) -> Problem:
    """Says which files of a folder may be meant.

    Args:
        path: A folder that was named in place of a file.
    """
    names = sorted(file.name for file in path.iterdir() if file.suffix in (".jsonl", ".json"))
    hint = f"name one of its files, such as {quote(path / names[0], most=4096)}" if names else ""
    if len(names) > 1:
        hint += f"; `cat {shlex.quote(str(path))}/*.jsonl > all.jsonl` joins several"
    return Problem(str(path), "a folder", f"a file with {NEED}", hint)


def explain_file(path: Path, raw: bytes) -> Problem | None:
    """Says what a file is that as a whole is no JSON or JSONL of rows.

    Args:
        path: The file.
        raw: Its bytes, without a byte order mark of UTF-8.

    Returns:
        The problem; None where each line is worth reading by itself.
    """
    found = _of_bytes(path, raw)
    if found is None and not _begins_with_a_line(raw):
        found = _of_text(path, raw.decode("utf-8", errors="replace").strip())
    return None if found is None else Problem(str(path), found[0], NEED, found[1])


def hint_for_line(line: bytes) -> str:
    """Says what may be amiss in a line that is no JSON.

    Args:
        line: The line.
    """
    text = line.decode("utf-8", errors="replace").strip()
    if text.endswith("},"):
        return "remove the comma at the end of the line"
    if re.match(r"[\[\s]*\{\s*'", text):
        return "this is Python's own notation: write rows with `json.dumps`"
    if text.startswith("{") and not text.endswith("}"):
        return "the object does not end on its line: write one whole object per line, and copy a file again that was cut off"
    return ""


def _of_bytes(path: Path, raw: bytes) -> tuple[str, str] | None:
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\x00" in raw[:4]:
        text = raw.decode("utf-16", errors="replace").lstrip("\ufeff \t\r\n")
        if text[:1] in ("{", "[", '"') or names_a_column(text.partition("\n")[0]):
            return "text in UTF-16", f"save it as UTF-8: `iconv -f UTF-16 -t UTF-8 {_name(path)} > rows.jsonl`"
    for magic, kind, way, how in _MAGIC:
        if raw.startswith(magic):
            if kind == "a zip file" and (path.suffix == ".xlsx" or b"xl/" in raw):
                kind, way, how = _NAMES[".xlsx"]
            return kind, _advise(path, way, how)
    if raw[4:8] == b"ftyp":
        return "a video file (mp4, mov)", "name clips in the column `videos` of the rows"
    if raw[257:262] == b"ustar":
        return "a tar file", f"unpack it: `tar -xf {_name(path)}`"
    if b"\x00" in raw[:1000]:
        kind, way, how = _NAMES.get(path.suffix.lower(), ("bytes that are no text", "", ""))
        return kind, _advise(path, way, how)
    return None


def _begins_with_a_line(raw: bytes) -> bool:
    """Tells whether the first line is one whole object, and more follows: the usual file, of which nothing else is looked at."""
    text = raw.lstrip()
    end = text.find(b"\n")
    if end < 0 or not text.startswith(b"{") or not text[end : end + _NUM_LOOKED_AT].strip():
        return False
    try:
        return isinstance(json.loads(text[:end]), dict)
    except (ValueError, RecursionError):
        return False


def _of_text(path: Path, text: str) -> tuple[str, str] | None:
    first = text.partition("\n")[0].strip()
    if text.startswith("{"):
        return _of_objects(path, text, first)
    if text.startswith('"{'):
        return "JSON inside JSON strings", f"take the strings off: `jq -c fromjson {_name(path)} > rows.jsonl`"
    if text.startswith("["):
        return None
    if re.match(r"<!doctype html|<html", text, re.IGNORECASE):
        return "a web page (HTML)", "download the file itself, not the page that shows it"
    if text.startswith("<"):
        return _NAMES[".xml"][0], _NAMES[".xml"][2]
    suffix = path.suffix.lower()
    if suffix not in _NAMES and names_a_column(first):
        suffix = ".tsv" if "\t" in first else ".csv" if "," in first else ".yaml"
    if text and suffix in _NAMES:
        kind, way, how = _NAMES[suffix]
        return kind, _advise(path, way, how)
    return None


def _of_objects(path: Path, text: str, first: str) -> tuple[str, str] | None:
    """Looks at a file that starts with an object: is it the only one, or do objects not end with their lines?"""
    try:
        value, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return None
    if not text[end:].strip():
        found = _of_one_object(path, value)
        if found is not None:
            return found
    if len(first) < end:
        return "an object over several lines", f"write one object per line: `jq -c . {_name(path)} > rows.jsonl`"
    rest = first[end:].strip()
    if ("\r" in rest and rest.startswith("{")) or ("\r" in text[end : end + 2] and "\n" not in text):
        return (
            "lines that end with a carriage return",
            f"write line feeds: `tr '\\r' '\\n' < {_name(path)} > rows.jsonl`",
        )
    if rest.startswith("{"):
        return "several objects on a line", f"write one object per line: `jq -c . {_name(path)} > rows.jsonl`"
    return None


def _of_one_object(path: Path, value: dict[str, Any]) -> tuple[str, str] | None:
    if holds_conversation(value):
        return None
    known = [name for name in value if names_a_column(name)]
    if (
        known
        and all(isinstance(value[name], list | dict) for name in known)
        and isinstance(value[known[0]], list | dict)
    ):
        names = [name for name in known if name not in ("history", "videos")]
        if names:
            return "one object that holds columns", _advise(path, _PANDAS, "read_json")
    for name, inner in value.items():
        if not known and isinstance(inner, list) and inner and isinstance(inner[0], dict):
            rows = ".row" if isinstance(inner[0].get("row"), dict) else ""
            query = shlex.quote(f".[{json.dumps(name)}][]{rows}")
            return f"rows inside {quote(name)}", f"take them out: `jq -c {query} {_name(path)} > rows.jsonl`"
    return None


def _advise(path: Path, way: str, how: str) -> str:
    if way in (_PANDAS, _TABLE):
        # every cell of a table is text: `007` and `None` may be answers
        options, lists = (
            ", dtype=str, keep_default_na=False",
            ".assign(videos=lambda d: [[v] if v else [] for v in d.videos])",
        )
        options, lists = (options, lists) if way == _TABLE else ("", "")
        read = f"import pandas; pandas.{how}({path.name!r}{options}){lists}"
        write = "to_json('rows.jsonl', orient='records', lines=True, force_ascii=False)"
        return f'make JSONL of it: `python -c "{read}.{write}"`'
    if way == _PACKED:
        return f"unpack it: `{how} {_name(path)} > rows.jsonl`"
    return how


def _name(path: Path) -> str:
    return shlex.quote(path.name)
