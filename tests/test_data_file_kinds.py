"""A file that is not read is named for what it is, with a way to make rows of it; the way is walked where it can be."""

import bz2
import gzip
import io
import json
import lzma
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from cvft.data.rows import read_rows
from cvft.errors import DataError

ROWS = [
    {"query": "Wie heißt er?", "response": "007", "videos": ["a.mp4"]},
    {"query": "And, then?", "response": "None", "videos": []},
]
JSONL = "".join(json.dumps(row) + "\n" for row in ROWS)
CSV = 'query,response,videos\nWie heißt er?,007,a.mp4\n"And, then?",None,\n'


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"any")
    return tmp_path


def told(path):
    with pytest.raises(DataError) as caught:
        read_rows(path)
    (problem,) = caught.value.problems
    return problem


def zipped(name):
    with io.BytesIO() as file:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr(name, JSONL)
        return file.getvalue()


def tarred():
    with io.BytesIO() as file:
        with tarfile.open(fileobj=file, mode="w") as archive:
            archive.addfile(tarfile.TarInfo("rows.jsonl"))
        return file.getvalue()


def parquet():
    import pyarrow
    import pyarrow.parquet

    with io.BytesIO() as file:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), file)
        return file.getvalue()


MAKE = {
    "t.parquet": ("a parquet file", parquet),
    "no_ending": ("a parquet file", parquet),
    "t.csv": ("a CSV file", lambda: CSV.encode()),
    "csv.jsonl": ("a CSV file", lambda: CSV.encode()),
    "t.tsv": ("a TSV file", lambda: b"query\tresponse\tvideos\nWie hei\xc3\x9ft er?\t007\ta.mp4\nAnd, then?\tNone\t\n"),
    "t.jsonl.gz": ("a gzip file", lambda: gzip.compress(JSONL.encode())),
    "t.bz2": ("a bzip2 file", lambda: bz2.compress(JSONL.encode())),
    "t.xz": ("an xz file", lambda: lzma.compress(JSONL.encode())),
    "t.zip": ("a zip file", lambda: zipped("t.jsonl")),
    "wrapped.json": ("rows inside `data`", lambda: json.dumps({"version": 1, "data": ROWS}).encode()),
    "wrapped lines.json": ("rows inside `data`", lambda: json.dumps({"data": ROWS}, indent=1).encode()),
    "served.json": (
        "rows inside `rows`",
        lambda: json.dumps({"rows": [{"row_idx": 0, "row": r} for r in ROWS]}).encode(),
    ),
    "pretty.json": ("an object over several lines", lambda: b"\n".join(json.dumps(r, indent=1).encode() for r in ROWS)),
    "one line.jsonl": ("several objects on a line", lambda: JSONL.replace("\n", " ").encode()),
    "twice.jsonl": (
        "JSON inside JSON strings",
        lambda: "".join(json.dumps(json.dumps(r)) + "\n" for r in ROWS).encode(),
    ),
    "mac.jsonl": ("lines that end with a carriage return", lambda: JSONL.replace("\n", "\r").encode()),
    "utf16.jsonl": ("text in UTF-16", lambda: JSONL.encode("utf-16")),
    "columns.json": (
        "one object that holds columns",
        lambda: json.dumps({k: [r[k] for r in ROWS] for k in ROWS[0]}).encode(),
    ),
}


@pytest.mark.parametrize("name", MAKE)
def test_the_way_to_rows_that_a_message_shows_leads_there(folder, name):
    kind, make = MAKE[name]
    (folder / name).write_bytes(make())
    problem = told(folder / name)
    assert problem.got == kind
    command = re.search("`(.*)`", problem.hint)[1]
    # the python that a user has activated is the one that cvft is installed for
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    if shutil.which(command.split()[0], path=path) is None:
        pytest.skip(f"no {command.split()[0]} here")
    subprocess.run(["bash", "-c", command], cwd=folder, check=True, env={**os.environ, "PATH": path})
    rows = read_rows(folder / "rows.jsonl")
    assert [row.to_json() for row in rows] == [
        {**row, "history": [], "videos": [str(folder / clip) for clip in row["videos"]]} for row in ROWS
    ]


OTHERS = {
    "t.xlsx": (lambda: zipped("xl/workbook.xml"), "an Excel file"),
    "t.arrow": (lambda: b"ARROW1\0\0", "an Arrow file"),
    "stream.arrow": (lambda: b"\xff\xff\xff\xff\x08\0\0\0", "an Arrow file"),
    "t.tar": (tarred, "a tar file"),
    "t.pkl": (lambda: b"\x80\x04\x95", "a pickle file"),
    "clip.mp4": (lambda: b"\0\0\0\x18ftypmp42", "a video file (mp4, mov)"),
    "page.json": (lambda: b"<!DOCTYPE html><html>", "a web page (HTML)"),
    "lfs.jsonl": (
        lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n",
        "a Git LFS pointer in place of the file",
    ),
    "t.yaml": (lambda: b"- query: q\n  response: r\n", "a YAML file"),
    "yaml.jsonl": (lambda: b"- query: q\n  response: r\n", "a YAML file"),
    "noise.jsonl": (lambda: bytes(range(1, 100)) + b"\0" * 9, "bytes that are no text"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_files_are_named_for_what_they_are(folder, name):
    make, kind = OTHERS[name]
    (folder / name).write_bytes(make())
    assert told(folder / name).got == kind


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ('{"query": "q", "response": "r"},', "remove the comma at the end of the line"),
        ("{'query': 'q', 'response': 'r'}", "this is Python's own notation: write rows with `json.dumps`"),
        (
            '{"query": "q", "resp',
            "the object does not end on its line: write one whole object per line, and copy a file again",
        ),
    ],
)
def test_lines_that_are_no_json_are_one_message_with_a_hint(folder, line, hint):
    path = folder / "rows.jsonl"
    path.write_text(f'{{"query": "q", "response": "r"}}\n{f"{line}{chr(10)}" * 500}')
    with pytest.raises(DataError) as caught:
        read_rows(path)
    assert len(str(caught.value).split("\n")) == 3
    assert hint in str(caught.value)
