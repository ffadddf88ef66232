"""One way to read and write JSONL: a line feed ends a line and nothing else does; what is read can be written again."""

import json
import pickle
import random
from pathlib import Path

import pytest

from cvft.errors import DataError, ValueProblem
from cvft.jsonl import MOST_LEVELS, WrittenNumber, parse_json, read_jsonl, split_lines, to_jsonl

SEPARATORS = (
    "\u2028 \u2029 \x85 \x0b \x0c \x1c \x1d \x1e \r \r\n \n \t \x00 \x7f \ufeff \u200b \u202e \ufffe \U0001f600"
)


def test_a_line_feed_ends_a_line_and_nothing_else_does():
    text = "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\rh"
    assert list(split_lines(f"{text}\r\n\n \n{text}".encode())) == [(1, f"{text}\r".encode()), (4, text.encode())]


def test_any_text_comes_back_as_it_was(tmp_path):
    chance = random.Random(0)
    points = [*range(0x300), *range(0x2000, 0x2070), 0xFEFF, 0xFFFE, 0xFFFF, 0x1F600, 0x10FFFF]
    values = [{"text": SEPARATORS}, *({"text": "".join(map(chr, chance.choices(points, k=50)))} for _ in range(200))]
    path = tmp_path / "any.jsonl"
    path.write_bytes(to_jsonl(values).encode())
    assert read_jsonl(path) == values
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert read_jsonl(path) == values


def test_a_torn_last_line_is_left_out_only_when_that_may_be(tmp_path):
    path = tmp_path / "torn.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": ')
    assert read_jsonl(path, may_be_torn=True) == [{"a": 1}]
    with pytest.raises(DataError, match=r"torn\.jsonl:2: got invalid JSON"):
        read_jsonl(path)
    path.write_bytes(b'{"a": 1}\n5\n[]\n')
    with pytest.raises(DataError, match="has 2 problems"):
        read_jsonl(path)


DEEP = f"{'[' * 99_000}{']' * 99_000}"
REFUSED = {
    "1e400": "the number `1e400`, which is too large",
    "-1e400": "the number `-1e400`, which is too large",
    '{"a": [{"b": 1e309}]}': "the number `1e309`, which is too large",
    "9" * 5000: "a number of 5000 digits",
    "NaN": "`NaN`, which is not JSON",
    "-Infinity": "`-Infinity`, which is not JSON",
    '{"a": 1, "a": 2}': "the key `a` more than once",
    r'"\ud83d"': r"half of a surrogate pair (`\ud8..`) in a string",
    r'{"\uDC00": 1}': r"half of a surrogate pair (`\ud8..`) in a string",
    DEEP: "JSON nested too deeply",
    f"{'[' * 101}{']' * 101}": "JSON nested too deeply",
    f"[1, {'[' * 100}{']' * 100}]": "JSON nested too deeply",
    '"a\rb"': "invalid JSON (Invalid control character at, column 3)",
}


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: text[:20])
def test_what_could_not_be_written_again_is_refused(text):
    with pytest.raises(ValueProblem) as caught:
        parse_json(text.encode())
    assert caught.value.got == REFUSED[text]


@pytest.mark.parametrize(
    "text", ["[" * (MOST_LEVELS - 1) + "]" * (MOST_LEVELS - 1), json.dumps("[" * 500), "9" * 4300, "1e308", "1e-400"]
)
def test_what_is_read_can_be_written(text):
    value = parse_json(text.encode())
    assert parse_json(to_jsonl([{"a": value}]).encode()) == {"a": value}


def test_numbers_know_how_they_were_written():
    value = parse_json(b"[1.50, 1e3, 2, -0.0]")
    assert [number.text for number in value if isinstance(number, WrittenNumber)] == ["1.50", "1e3", "-0.0"]
    assert pickle.loads(pickle.dumps(value))[0].text == "1.50"


CUT_TEXT_FOR_PEOPLE = {
    *("plan/machine.py", "plan/describe.py", "export/push.py", "weights/hub.py", "train/launch.py", "pipeline.py"),
    *("data/video/decord.py", "train/prove.py", "families/any_swift/layouts.py", "predict/ranks.py"),
    "doctor_env/find.py",
}
"""Files that cut what programs say, or what a terminal shows. None of them reads JSONL that way."""


def test_nobody_else_cuts_text_into_lines():
    package = Path(__file__).parent.parent / "cvft"
    cut = {path.relative_to(package).as_posix() for path in package.rglob("*.py") if ".splitlines(" in path.read_text()}
    assert cut <= CUT_TEXT_FOR_PEOPLE
