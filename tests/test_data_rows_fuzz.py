"""Whatever a file of rows holds, it is read, or refused as a mistake in the file; what is read is written and read again."""

import json
import random

import pytest

from cvft.data.rows import category_of, read_rows, write_rows
from cvft.errors import DataError
from cvft.jsonl import read_jsonl

NAMES = ("query", "response", "history", "videos", "id", "category", "family", "images", "image", "audios", "video")
OTHER_NAMES = (
    "messages",
    "instruction",
    "input",
    "output",
    "score",
    "",
    "a\u2028",
    "Query",
    "prediction",
    "clip",
    "system",
)
TEXTS = (
    *(
        "a.mp4",
        "b.mp4",
        "A.MP4",
        "clips",
        "./a.mp4",
        "~",
        "~/a",
        "~nobody",
        "file:",
        "file://",
        "file:///",
        "file://h/a",
        "x:/",
    ),
    *(
        "C:",
        "C:\\",
        "C:/a",
        "\\",
        "\\\\h\\s",
        "/",
        "//",
        "..",
        "../..",
        ".",
        "a.mp4/",
        "a.mp4/b",
        "%",
        "%zz",
        "a%2F",
        "data:",
    ),
    *(
        "https://h",
        "a.jpg",
        "\x00",
        "\u2028",
        "\x85",
        "",
        " ",
        "x" * 300,
        "[",
        "{",
        '["a.mp4"]',
        '{"video": 1}',
        "null",
        "<video>",
    ),
    *(
        "\ufeff",
        "e\u0301.mp4",
        "\u00e9.mp4",
        "a\nb",
        "-",
        "*.mp4",
        "`a`",
        "`",
        "\x1b[31m",
        "none.mp4",
        "d/e/f.mp4",
        "[" * 9000,
    ),
)


PARTS = (b"\n", b"\r", b"\x00", b"\xff", b"\xe2\x80\xa8", b"\\ud800", b'"', b"{", b"}", b"[", b",", b"1e999", b"'")


def any_value(chance, depth=0):
    kind = chance.randrange(9 if depth < 3 else 6)
    if kind in (0, 1, 2):
        return chance.choice(TEXTS)
    if kind == 3:
        return chance.choice((None, True, False))
    if kind == 4:
        return chance.choice((0, -1, 3, 10**30, 10**400))
    if kind == 5:
        return chance.choice((1.5, -0.0, 1e308, 1e-320))
    if kind in (6, 7):
        return [any_value(chance, depth + 1) for _ in range(chance.randrange(4))]
    keys = chance.sample((*NAMES, "type", "path", "role", "content", "start", "row", "data"), chance.randrange(4))
    return {key: any_value(chance, depth + 1) for key in keys}


def any_row(chance):
    row = {"query": "q", "response": "r", "videos": ["a.mp4"]} if chance.random() < 0.8 else {}
    for name in chance.sample(NAMES + OTHER_NAMES, chance.randrange(5)):
        row[name] = any_value(chance)
    return row


def any_bytes(chance, raw):
    """Damages a file in one of many ways."""
    raw = bytearray(raw)
    for _ in range(chance.randrange(1, 4)):
        at = chance.randrange(len(raw))
        part = chance.choice(
            (b"\n", b"\r", b"\x00", b"\xff", b"\xe2\x80\xa8", b"\\ud800", b'"', b"{", b"}", b"[", b",", b"1e999", b"'")
        )
        raw[at : at + chance.randrange(3)] = part
    return bytes(raw[: chance.randrange(1, len(raw))] if chance.random() < 0.2 else raw)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.mp4", "b.mp4", "\u00e9.mp4"):
        (tmp_path / name).write_bytes(b"any bytes")
    (tmp_path / "clips").mkdir()
    return tmp_path


def read_or_refused(path):
    """Returns the rows, or None when they are refused in a text that somebody may read."""
    try:
        return read_rows(path)
    except DataError as error:
        text = str(error)
        assert len(text) < 100_000
        assert all(char.isprintable() or char == "\n" for char in text), ascii(text)
        return None


def check_written(rows, path):
    write_rows(rows, path)
    again = read_rows(path)
    assert [row.to_json() for row in again] == [row.to_json() for row in rows]
    assert [category_of(row) for row in again] == [category_of(row) for row in rows]
    assert len(read_jsonl(path)) == len(rows)


@pytest.mark.parametrize("seed", range(4))
def test_any_columns_are_read_or_refused(folder, seed):
    chance = random.Random(seed)
    num_read = 0
    for number in range(400):
        made = [any_row(chance) for _ in range(1 if number % 2 else 3)]
        path = folder / ("rows.jsonl" if number % 3 else "rows.json")
        lines = (json.dumps(row, ensure_ascii=chance.random() < 0.5) for row in made)
        path.write_text("\n".join(lines) if number % 5 else json.dumps(made), encoding="utf-8", newline="")
        rows = read_or_refused(path)
        if rows is not None:
            num_read += 1
            check_written(rows, folder / "again.jsonl")
    assert num_read > 20


@pytest.mark.parametrize("seed", range(4))
def test_any_bytes_are_read_or_refused(folder, seed):
    chance = random.Random(seed)
    rows = [{"query": "q\u2028", "response": "r", "videos": ["a.mp4"], "score": [1.5, {"a": None}]}] * 3
    raw = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    for number in range(400):
        path = folder / ("rows.jsonl" if number % 3 else "rows.json")
        path.write_bytes(any_bytes(chance, raw if number % 4 else json.dumps(rows).encode()))
        found = read_or_refused(path)
        if found is not None:
            check_written(found, folder / "again.jsonl")
