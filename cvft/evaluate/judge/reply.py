"""A judge's reply -> the score that it states, or why there is none.

Read is one JSON object with a `score` that is a whole number from 0 to 5, whatever stands around it. `4`, `4.0` and `"4"` are
one; `4.8`, `11`, `4/5` and `true` are none, and are never rounded or cut. A reply that states two scores states none.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cvft.errors import quote
from cvft.evaluate.judge.rubrics import HIGHEST

MAX_CHARS = 20_000
"""Longest reply that is read, without its thoughts: what was asked for has thirty characters."""

MAX_BRACES = 100
"""Most places of a reply at which an object could begin."""

_THOUGHT_END = "</think>"
_DIGIT = re.compile(rf"\s*[0-{HIGHEST}]\s*", re.ASCII)
_FLAT = re.compile(r"\{[^{}]*\}")


@dataclass(frozen=True)
class Judgement:
    """What a reply states.

    Args:
        score: From 0 to 5.
        verdict: `yes` or `no`, where that was asked.
    """

    score: int
    verdict: str | None = None


class UnreadableError(ValueError):
    """A reply that states no score; the text says why."""


def read_reply(text: str, *, has_verdict: bool) -> Judgement:
    """Reads a reply.

    Args:
        text: The reply, as it came.
        has_verdict: Whether it has to say `yes` or `no` as well.

    Raises:
        UnreadableError: when it does not state one score, or one verdict.

    Example:
        >>> read_reply('Sure: {"score": 4}', has_verdict=False)
        Judgement(score=4, verdict=None)
    """
    said = text.rpartition(_THOUGHT_END)[2]  # a thought may try scores before it settles on one
    if "<think>" in said:
        raise UnreadableError("a thought that does not end")
    if len(said) > MAX_CHARS:
        raise UnreadableError(f"{len(said):,} characters")
    if said.count("{") > MAX_BRACES:
        raise UnreadableError(f"more than {MAX_BRACES} braces")
    found = [each for each in _objects(said) if "score" in each]
    if not found:
        raise UnreadableError("no JSON object with a score" if said.strip() else "nothing")
    stated = {_read(each, has_verdict=has_verdict) for each in found}
    if len(stated) > 1:
        raise UnreadableError("two scores that differ")
    return stated.pop()


def _read(value: dict[str, Any], *, has_verdict: bool) -> Judgement:
    score = value["score"]
    if isinstance(score, str) and _DIGIT.fullmatch(score):
        score = int(score)
    if isinstance(score, bool) or not isinstance(score, int | float) or score not in range(HIGHEST + 1):
        raise UnreadableError(f"the score {quote(score, most=20)}, which is no whole number from 0 to {HIGHEST}")
    if not has_verdict:
        return Judgement(int(score))
    verdict = value.get("verdict")
    if isinstance(verdict, bool):
        verdict = "yes" if verdict else "no"
    if not isinstance(verdict, str) or verdict.strip().lower() not in ("yes", "no"):
        raise UnreadableError(f"the verdict {quote(verdict, most=20)}, which is neither yes nor no")
    return Judgement(int(score), verdict.strip().lower())


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """Every whole object in a text, outermost ones only; also as Python writes them, with single quotes."""
    decoder = json.JSONDecoder(object_pairs_hook=_refuse_repeats)
    place = text.find("{")
    while place >= 0:
        end = place + 1
        try:
            value, end = decoder.raw_decode(text, place)
            yield value
        except (ValueError, RecursionError):
            flat = _FLAT.match(text, place)
            if flat is not None and (value := _from_python(flat[0])) is not None:
                end = flat.end()
                yield value
        place = text.find("{", end)


def _refuse_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise UnreadableError("a key that stands there twice")
    return dict(pairs)


def _from_python(text: str) -> dict[str, Any] | None:
    try:
        tree = ast.parse(text, mode="eval").body
        if not isinstance(tree, ast.Dict):
            return None
        value = ast.literal_eval(tree)
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        return None
    keys = [key.value for key in tree.keys if isinstance(key, ast.Constant)]
    if len(keys) != len(value):
        raise UnreadableError("a key that stands there twice")
    return value if all(isinstance(key, str) for key in value) else None
