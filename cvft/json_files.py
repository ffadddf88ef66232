"""JSON files that others may have written: read whole or refused, and compared with what their reader needs.

file -> bytes, at most so many -> values as `cvft.jsonl` takes them -> every key checked by a `Need`

Nothing of a file is used before it has passed here: no error of a library, no hang, and no value that fails far from its place.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from cvft.errors import CvftError, Problem, ValueProblem, quote
from cvft.jsonl import parse_json

T = TypeVar("T")

MAX_BYTES = 32 << 20
"""Largest file. The largest that is published, an index of tensors, has 100 kB."""


class JsonError(ValueError):
    """A file is not JSON that is read; its text says what was found."""


@dataclass(frozen=True)
class Need:
    """What a value has to be.

    Args:
        words: In words, for messages: "a whole number from 1 to 24".
        accepts: Tells whether a value is that.
    """

    words: str
    accepts: Callable[[Any], bool]


def read_json(path: Path, *, max_bytes: int = MAX_BYTES) -> Any:
    """Reads a JSON file.

    Args:
        path: The file. Only a regular one is opened: a pipe may never end.
        max_bytes: Most that is read.

    Raises:
        JsonError: It cannot be read, is too large, or is not JSON.
    """
    return _parse(_read(path, max_bytes))


def _read(path: Path, max_bytes: int) -> bytes:
    try:
        if not path.is_file():
            raise JsonError("no such file" if not path.exists() else "something that is no file")
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise JsonError(error.strerror or str(error)) from error
    if len(data) > max_bytes:
        raise JsonError(f"more than {max_bytes:,} bytes")
    return data


def _parse(data: bytes) -> Any:
    try:
        return parse_json(data)
    except ValueProblem as error:
        line = "" if error.line is None else f" in line {error.line}"
        raise JsonError(f"{error.got}{line}") from error


def read_object(path: Path, *, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """Reads a JSON file that holds an object; raises as `read_json`, and where it holds something else."""
    value = read_json(path, max_bytes=max_bytes)
    if not isinstance(value, dict):
        raise JsonError(f"{show(value)} in place of an object")
    return value


def read_as(
    path: Path,
    kind: TypeAdapter[T],
    *,
    error: type[CvftError],
    subject: str,
    need: str,
    hint: str = "",
    max_bytes: int = MAX_BYTES,
) -> T:
    """Reads a JSON file of ours, which somebody may have edited.

    Args:
        path: The file.
        kind: What it holds, strictly.
        error: What is raised.
        subject: What it belongs to, for the headline of the error.
        need: What it has to be, in words.
        hint: What to do.
        max_bytes: Most that is read.

    Raises:
        CvftError: of the class that was given, with the first place that is of another kind.
    """
    try:
        data = _read(path, max_bytes)
        _parse(data)
        return kind.validate_json(data, strict=True)
    except JsonError as broken:
        got = str(broken)
    except ValidationError as broken:
        first = broken.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        got = f"{quote(place)}: {first['msg']}" if place else first["msg"]
    raise error(subject, [Problem(path.name, got, need, hint)])


def check_object(
    values: Mapping[str, Any],
    needs: Mapping[str, Need],
    *,
    where: str,
    optional: Iterable[str] = (),
    others: Callable[[str, Any], Problem | None] | None = None,
    hint: str = "",
) -> list[Problem]:
    """Compares an object with what its reader needs.

    Args:
        values: The object.
        needs: What each key has to be.
        where: What messages put before a key: `config.json`.
        optional: Keys that may be absent.
        others: What is wrong with a key that `needs` does not know; by default nothing is.
        hint: For every problem.

    Returns:
        A problem for each key that is absent or of another kind, by its name.
    """
    may_be_absent = set(optional)
    problems = []
    for key, need in needs.items():
        if key in values and not need.accepts(values[key]):
            problems.append(Problem(f"{where}: {key}", show(values[key]), need.words, hint))
        elif key not in values and key not in may_be_absent:
            problems.append(Problem(f"{where}: {key}", "nothing", need.words, hint))
    if others is not None:
        unknown = (others(key, value) for key, value in values.items() if key not in needs)
        problems += [problem for problem in unknown if problem is not None]
    return problems


def show(value: Any) -> str:
    """Shows a JSON value in a message, as JSON writes it: text in double quotes, `null`, `true`."""
    return quote(json.dumps(value))


def whole_number(low: int, high: int) -> Need:
    """A whole number between two; `true` and `4.0` are none."""
    return Need(
        f"a whole number from {low:,} to {high:,}",
        lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high,
    )


def number(low: float, high: float) -> Need:
    """A number between two; `true` is none."""
    return Need(
        f"a number from {low:g} to {high:g}",
        lambda value: isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high,
    )


def text(max_chars: int = 4096) -> Need:
    """A text that is not empty."""
    return Need(
        f"a text of up to {max_chars:,} characters",
        lambda value: isinstance(value, str) and 0 < len(value) <= max_chars,
    )


def one_of(*choices: Any) -> Need:
    """One of some plain values; `1` is not `true`, but it is `1.0`."""
    return Need(
        " or ".join(show(choice) for choice in choices),
        lambda value: any(
            isinstance(value, bool) == isinstance(choice, bool) and value == choice for choice in choices
        ),
    )


def list_of(need: Need, *, words: str) -> Need:
    """A list, each item of a kind."""
    return Need(words, lambda value: isinstance(value, list) and all(need.accepts(item) for item in value))


def either(*needs: Need) -> Need:
    """Whatever one of several accepts."""
    words = " or ".join(need.words for need in needs)
    return Need(words, lambda value: any(need.accepts(value) for need in needs))


FLAG = one_of(True, False)
NULL = one_of(None)
TEXT = Need("a text", lambda value: isinstance(value, str))
OBJECT = Need("an object", lambda value: isinstance(value, dict))
ANYTHING = Need("anything", lambda value: True)
"""For what is written down and changes nothing."""
