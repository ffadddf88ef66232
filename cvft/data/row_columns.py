"""Turns the columns of one JSON object into typed values, with every problem of that row.

Refuses what would otherwise train on something else than the author meant: see `ColumnReader.read`.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cvft.data.clip_columns import CLIP_COLUMNS, IMAGES, ClipFinder, read_clip
from cvft.data.clip_names import ClipNames
from cvft.data.media_columns import MEDIA_COLUMNS, OTHER_MEDIA, check_other_media, holds_clip, show
from cvft.data.tags import Media, find_tag, find_tag_problem, without_tags
from cvft.data.video.spec import ClipRef, file_of, is_image
from cvft.errors import Problem, ValueProblem, quote
from cvft.jsonl import WrittenNumber

KNOWN_COLUMNS = ("id", "system", "query", "response", "history", "videos")
"""The columns that are read, beside `CLIP_COLUMNS`; all others are kept in `Row.extra`."""

READ_COLUMNS = frozenset((*KNOWN_COLUMNS, *CLIP_COLUMNS, IMAGES))

CATEGORY_COLUMNS = ("category", "family")
"""Where a row says what kind of question it asks, in `Row.extra`; the first that a row has counts. `family` is older."""

_OTHER_NAMES = {
    "query": ("question", "prompt", "instruction", "input"),
    "response": ("answer", "output", "caption"),
}
"""Column names of other formats, to say which to rename."""

_BEGINNINGS = {"video": "videos", "system": "system"}
"""How names of columns begin that mean a known one."""

_CONVERSATIONS = ("messages", "conversations", "conversation")
"""Columns that hold a whole conversation in other formats."""

_PAIRS = "a list of [question, answer] pairs of strings"


@dataclass
class Columns:
    """The values of one row; a value whose column has a problem is left at its default."""

    problems: list[Problem] = field(default_factory=list)
    query: str = ""
    response: str = ""
    history: tuple[tuple[str, str], ...] = ()
    system: str | None = None
    video: ClipRef | None = None
    url: str | None = None
    id: str | None = None
    taken_as_text: tuple[str, ...] = ()
    had_tags: bool = False


class ColumnReader:
    """Reads the columns of many rows; each clip path is looked at once.

    Args:
        video_root: Folder that relative clip paths start from.
        require_response: Whether a row needs an answer.
        url_cache: Folder that clips named by URL are fetched to; without one they are refused.
        finder: Finds files by the names of clips, where they need not be existing ones below that folder.
    """

    def __init__(
        self,
        video_root: Path,
        *,
        require_response: bool,
        url_cache: Path | None = None,
        finder: ClipFinder | None = None,
    ) -> None:
        self._finder = ClipNames(video_root, url_cache=url_cache) if finder is None else finder
        self._require_response = require_response

    def read(self, columns: Mapping[str, Any], *, location: str) -> Columns:
        """Returns the typed values of one JSON object, and what is wrong with it.

        Args:
            columns: The JSON object.
            location: How to name the row in a problem.

        Returns:
            The values, with an empty list of problems when all of them can be used.
        """
        found = Columns()

        def problem(name: str, error: ValueProblem) -> None:
            found.problems.append(error.at(f"{location} {quote(name)}"))

        if "query" not in columns and "response" not in columns:
            other = next((name for name in _CONVERSATIONS if name in columns), None)
            if other is not None:
                found.problems.append(_other_format(other).at(location))
                return found
        misspelt = _find_misspelt(columns)
        try:
            found.query = _read_text(columns, "query", misspelt, is_required=True, may_be_empty=True)
        except ValueProblem as error:
            problem("query", error)
        try:
            required = self._require_response
            found.response = _read_text(columns, "response", misspelt, is_required=required, may_be_empty=not required)
        except ValueProblem as error:
            problem("response", error)
        try:
            found.history = _read_history(columns.get("history"))
        except ValueProblem as error:
            problem("history", error)
        if columns.get("system") is not None:
            try:
                found.system = _read_system(columns["system"])
            except ValueProblem as error:
                problem("system", error)
        found.video = read_clip(columns, finder=self._finder, report=problem)
        if found.video is not None and self._finder.urls:
            found.url = self._finder.urls.get(file_of(found.video))
        try:
            found.id = _read_id(columns.get("id"))
        except ValueProblem as error:
            problem("id", error)
        try:
            _check_category(columns)
        except ValueProblem as error:
            problem(str(category_column(columns)), error)
        if not MEDIA_COLUMNS.isdisjoint(columns):
            for name, other_media in check_other_media(columns):
                problem(name, other_media)
        if not found.problems and ("<" in found.query or found.history):
            media: Media = "none" if found.video is None else "image" if is_image(found.video) else "video"
            wrong_tag = find_tag_problem(found.query, found.history, media=media, location=location)
            found.problems += [] if wrong_tag is None else [wrong_tag]
            asked = (found.query, found.history)
            found.query = without_tags(found.query, media=media)
            if found.history:
                found.history = tuple(
                    (without_tags(question, media=media), answer) for question, answer in found.history
                )
            found.had_tags = (found.query, found.history) != asked
        for known, name in misspelt.items():
            if known in ("system", "history", "videos"):  # the required ones have reported it in their own problem
                nothing = "null" if known == "system" else "[]"
                hint = f'did you mean {quote(known)}? if not, add `"{known}": {nothing}`'
                problem(
                    name, ValueProblem(f"an unknown column and no {quote(known)}", f"the column {quote(known)}", hint)
                )
        if not found.problems and not (
            isinstance(columns["query"], str)
            and isinstance(columns.get("response"), str)
            and not (found.history or found.system)
        ):
            found.taken_as_text = tuple(_find_numbers(columns))
        return found


def names_a_column(text: str) -> bool:
    """Says whether text such as the first line of a table names a column of rows, ours or that of another format."""
    words = {word.lower() for word in re.findall(r"\w+", text)}
    return bool(
        words & {*KNOWN_COLUMNS[1:], *_CONVERSATIONS, *(name for names in _OTHER_NAMES.values() for name in names)}
    )


def holds_conversation(columns: Mapping[str, Any]) -> bool:
    """Says whether an object is one conversation of another format: a list of turns, each an object."""
    values = [columns[name] for name in _CONVERSATIONS if name in columns]
    return any(isinstance(value, list) and bool(value) and isinstance(value[0], dict) for value in values)


def category_column(columns: Mapping[str, Any]) -> str | None:
    """Returns the name of the column that says what kind of question a row asks; None where it has none, or null in it."""
    for name in CATEGORY_COLUMNS:  # plain loops here and below: they run once for each of very many rows
        if columns.get(name) is not None:
            return name
    return None


def category_in(columns: Mapping[str, Any]) -> str | None:
    """Returns the kind of question that a row asks: the text, or the number as text, of its category column, or None."""
    column = category_column(columns)
    text = None if column is None else text_of(columns[column])
    return text if text and text.strip() else None


def text_of(value: Any) -> str | None:
    """Returns text as it is, and a number or a boolean as it is written in JSON; None for anything else.

    Args:
        value: A value of a row.

    Raises:
        ValueProblem: when text holds bytes of another encoding, as a command line or a program may give it, but no file of rows.
    """
    if isinstance(value, str):
        if not value.isascii():
            _check_letters(value)
        return value
    if isinstance(value, WrittenNumber):
        return value.text
    if _is_number(value):
        return json.dumps(value)
    return None


def _check_letters(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueProblem(f"{quote(text)}, of which a part is no character", "text in UTF-8") from error


def _find_numbers(columns: Mapping[str, Any]) -> Iterator[str]:
    """Names the columns of a good row in which a number stands for text."""
    for name in ("query", "response", "system"):
        if _is_number(columns.get(name)):
            yield name
    if any(_is_number(said) for turn in columns.get("history") or () for said in turn):
        yield "history"


def _is_number(value: Any) -> bool:
    return isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))


def _check_category(columns: Mapping[str, Any]) -> None:
    name = category_column(columns)
    if name is not None and text_of(columns[name]) is None:
        hint = f"write one text, or rename the column: {quote(name)} says what kind of question a row asks"
        raise ValueProblem(show(columns[name]), "a string, a number or null", hint)


def _other_format(column: str) -> ValueProblem:
    hint = (
        "each answer becomes a row: its question is `query`, the answer `response`, what was said before `history`, the clip "
        "`videos`; data.format says that a file is written otherwise, and `cvft convert` makes native rows of it"
    )
    return ValueProblem(f"a conversation in {quote(column)}", "the columns `query`, `response` and `videos`", hint)


def _find_misspelt(columns: Mapping[str, Any]) -> Mapping[str, str]:
    """Returns known column -> the unknown column that seems to mean it, for known columns that are absent.

    A column that resembles a known one is only extra when the known one is there. `id` is left out, because every
    short name resembles it. Any name that starts with `video` stands for `videos`, one that starts with `system` for `system`,
    and any column that holds the name of a clip for `videos`: such a row would otherwise train without it.
    """
    misspelt = _near_names(tuple(columns))
    if "videos" not in columns and "videos" not in misspelt:
        names = (name for name in columns if name not in READ_COLUMNS and name not in OTHER_MEDIA)
        holder = next((name for name in names if holds_clip(columns[name])), None)
        return misspelt if holder is None else {**misspelt, "videos": holder}
    return misspelt


@lru_cache(maxsize=1000)
def _near_names(names: tuple[str, ...]) -> Mapping[str, str]:
    absent = [name for name in KNOWN_COLUMNS if name not in names and name != "id"]
    misspelt: dict[str, str] = {}
    for name in names:
        if name in READ_COLUMNS:
            continue
        lowered = name.lower()
        near = difflib.get_close_matches(lowered, absent, n=1, cutoff=0.75)
        if not near:
            near = [known for begin, known in _BEGINNINGS.items() if lowered.startswith(begin) and known in absent]
        if near:
            misspelt.setdefault(near[0], name)
    return MappingProxyType(misspelt)


def _read_text(
    columns: Mapping[str, Any], name: str, misspelt: Mapping[str, str], *, is_required: bool, may_be_empty: bool
) -> str:
    need = "a string" if may_be_empty else "a string that is not empty"
    if name not in columns:
        if name in misspelt:
            hint = f"did you mean {quote(name)} by {quote(misspelt[name])}?"
            raise ValueProblem("no such column", need, hint)
        if not is_required:
            return ""
        raise ValueProblem("no such column", need, _hint_other_format(columns, name))
    value = columns[name]
    if value is None and not is_required:
        return ""
    text = text_of(value)
    if text is None:
        hint = "write it as one text, in quotes" if value is not None else ""
        raise ValueProblem(show(value), need, hint)
    if not may_be_empty and not text.strip():
        got = "only white space" if text else "an empty string"
        raise ValueProblem(got, need, "write the answer or remove the row")
    return text


def _read_system(value: Any) -> str | None:
    """Returns a system text; None where it says nothing, as rows of other trainers hold an empty one where there is none."""
    text = text_of(value)
    if text is None:
        raise ValueProblem(show(value), "a string", "write it as one text, in quotes")
    if tag := find_tag(text):
        hint = "a clip belongs to the first question; in other words where it is meant"
        raise ValueProblem(f"{quote(tag)} in a system text", "text without tags", hint)
    return text if text.strip() else None


def _hint_other_format(columns: Mapping[str, Any], name: str) -> str:
    if name == "query" and columns.get("instruction") and columns.get("input"):
        return "join `instruction` and `input` into `query`"
    return next((f"rename {quote(other)} to {quote(name)}" for other in _OTHER_NAMES[name] if other in columns), "")


def _read_history(history: Any) -> tuple[tuple[str, str], ...]:
    if history is None or history == []:
        return ()
    if not isinstance(history, list):
        raise ValueProblem(show(history), _PAIRS)
    return tuple(_read_turn(number, turn) for number, turn in enumerate(history, start=1))


def _read_turn(number: int, turn: Any) -> tuple[str, str]:
    if not isinstance(turn, list):
        raise ValueProblem(f"turn {number} = {show(turn)}", _PAIRS, "each turn is a list of two strings")
    if len(turn) != 2:
        raise ValueProblem(f"turn {number} with {len(turn)} items", _PAIRS, "each turn is a list of two strings")
    question, answer = map(text_of, turn)
    if question is None or answer is None:
        part, value = ("question", turn[0]) if question is None else ("answer", turn[1])
        raise ValueProblem(f"turn {number} whose {part} is {show(value)}", _PAIRS, "complete the pair or remove it")
    return question, answer


def _read_id(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise ValueProblem(show(value), "a string or a whole number")
