"""JSON and JSONL, read and written in one way everywhere.

bytes -> lines, ended by a line feed and by nothing else -> strict JSON values -> the same text again

Text may hold every other line end there is (U+2028, U+2029, U+0085, form feeds), which `str.splitlines` and files opened as text
would cut at. Refuses what other readers take apart or what could not be written again: repeated keys, NaN, numbers without end,
half characters, nesting without end.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cvft.errors import DataError, Problem, ValueProblem, quote

MOST_LEVELS = 100
"""Deepest nesting of lists and objects that is read. Python's own writer gives up at about a thousand."""


class WrittenNumber(float):
    """A number with a point or an exponent, which still knows how it was written: `1.50` is no less than that as an answer."""

    text: str

    def __new__(cls, text: str) -> WrittenNumber:
        """Reads the number.

        Raises:
            ValueProblem: when it is too large to be a number of 64 bits.
        """
        number = super().__new__(cls, text)
        if number in (float("inf"), float("-inf")):
            raise ValueProblem(f"the number {quote(text)}, which is too large", "a number below 1.8e308", IN_QUOTES)
        number.text = text
        return number


_BLANKS = " \t\n\r"
"""What may stand around a JSON value. Source: RFC 8259, section 2."""

IN_QUOTES = "write it as text, in quotes"


def split_lines(raw: bytes) -> Iterator[tuple[int, bytes]]:
    """Cuts at line feeds only, and leaves out blank lines.

    Args:
        raw: UTF-8 text.

    Yields:
        1-based number and bytes of each line. A carriage return before the line feed stays: to JSON it is a blank.
    """
    for number, line in enumerate(raw.split(b"\n"), start=1):
        if line.strip():
            yield number, line


def parse_json(raw: bytes) -> Any:
    """Parses one strict JSON value.

    Args:
        raw: UTF-8 text.

    Returns:
        The value, which `to_line` writes without fail.

    Raises:
        ValueProblem: with the line within `raw` where it is known.
    """
    try:
        text = raw.decode("utf-8")
        if text.startswith("\ufeff"):
            raise json.JSONDecodeError("Unexpected UTF-8 BOM (decode using utf-8-sig)", text, 0)
        value = _decode(text)
        if b"\\u" in raw and b"\\ud" in raw.lower():
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        got = f"byte 0x{raw[error.start]:02x}, which is not UTF-8"
        raise ValueProblem(got, "UTF-8 text", "save the file as UTF-8", line=line) from error
    except UnicodeEncodeError as error:
        raise ValueProblem("half of a surrogate pair (`\\ud8..`) in a string", "whole characters") from error
    except json.JSONDecodeError as error:
        got = f"invalid JSON ({error.msg}, column {error.colno})"
        raise ValueProblem(got, "one JSON object", line=error.lineno) from error
    except RecursionError as error:
        raise _too_deep() from error
    # counting brackets is cheap, and they may stand in text; only then is it worth a walk
    if raw.count(b"[") + raw.count(b"{") > MOST_LEVELS:
        _check_depth(value)
    return value


def read_jsonl(path: Path, *, may_be_torn: bool = False) -> list[dict[str, Any]]:
    """Reads a JSONL file of ours.

    Args:
        path: The file.
        may_be_torn: Whether its writer may have been killed: a last line that no line feed ends is then left out.

    Returns:
        The objects in order.

    Raises:
        DataError: with every line that is no JSON object.
        OSError: the file cannot be read.
    """
    raw = path.read_bytes()
    if may_be_torn:
        raw = raw[: raw.rfind(b"\n") + 1]
    objects: list[dict[str, Any]] = []
    problems: list[Problem] = []
    for number, line in split_lines(raw):
        try:
            value = parse_json(line)
            if not isinstance(value, dict):
                raise ValueProblem(quote(line.decode("utf-8")), "one JSON object")
            objects.append(value)
        except ValueProblem as error:
            problems.append(error.at(f"{path}:{number}"))
    if problems:
        raise DataError(str(path), problems)
    return objects


def to_line(value: Mapping[str, Any]) -> str:
    """Writes one object as a line of JSONL, its line feed included."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n"


def to_jsonl(values: Iterable[Mapping[str, Any]]) -> str:
    """Writes objects as the whole text of a JSONL file."""
    return "".join(map(to_line, values))


def _decode(text: str) -> Any:
    """Parses text as `JSONDecoder.decode` does, but looks for blanks around it only where there is something."""
    try:
        value, end = _DECODER.raw_decode(text)
    except json.JSONDecodeError:  # explained below; or blanks at the beginning, of which it knows nothing
        return _DECODER.decode(text)
    return value if end == len(text) or not text[end:].strip(_BLANKS) else _DECODER.decode(text)


def _refuse_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    columns = dict(pairs)
    if len(columns) < len(pairs):
        repeated = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
        raise ValueProblem(f"the key {quote(repeated[0])} more than once", "each key once", "remove all but one")
    return columns


def _refuse_constant(name: str) -> None:
    raise ValueProblem(f"{quote(name)}, which is not JSON", "a number or null", "write null, or remove the column")


def _parse_int(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:  # Python's own limit on digits
        raise ValueProblem(f"a number of {len(text)} digits", "at most 4300 digits", IN_QUOTES) from error


_DECODER = json.JSONDecoder(
    object_pairs_hook=_refuse_repeats, parse_constant=_refuse_constant, parse_float=WrittenNumber, parse_int=_parse_int
)
"""Made once: `json.loads` makes one for each text, which takes as long as a short row does."""


def _too_deep() -> ValueProblem:
    return ValueProblem("JSON nested too deeply", f"at most {MOST_LEVELS} levels of lists and objects")


def _check_depth(value: Any) -> None:
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(MOST_LEVELS):
        inner = [item for each in level for item in (each.values() if isinstance(each, dict) else each)]
        level = [item for item in inner if isinstance(item, dict | list)]
        if not level:
            return
    raise _too_deep()
