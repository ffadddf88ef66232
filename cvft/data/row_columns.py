"""Turns the columns of one JSON object into typed values, with every problem of that row.

Refuses what would otherwise train on something else than the author meant: see `ColumnReader.read`.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypedDict

from cvft.data.clip_columns import CLIP_COLUMNS, IMAGES, ClipFinder, read_clips
from cvft.data.clip_names import ClipNames
from cvft.data.media_columns import MEDIA_COLUMNS, OTHER_MEDIA, check_other_media, holds_clip, read_videos, show
from cvft.data.tags import Media, find_tag, find_tag_problem, without_tags, without_usual_tag
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


class Columns(TypedDict):
    """The fields of one `cvft.data.rows.Row`, each under its name."""

    query: str
    response: str
    history: tuple[tuple[str, str], ...]
    videos: tuple[ClipRef, ...]
    source: Path
    line: int
    id: str | None
    extra: Mapping[str, Any]
    is_item: bool
    taken_as_text: tuple[str, ...]
    had_tags: bool
    format: str
    urls: tuple[str | None, ...]
    system: str | None


class _Names(NamedTuple):
    """What the names of a row's columns say, found once for all rows that have the same.

    Args:
        misspelt: Known column -> the unknown one that seems to mean it, for known columns that are absent.
        extra: Columns that are kept as they are.
        categories: Columns of `CATEGORY_COLUMNS`.
        may_hide_clip: Whether the row seems to have no clip, and any other column may hold the name of one.
        is_of_file: Whether the row says nothing of its clip but the file, and has no picture.
        has_media: Whether there is any column of other media.
        conversation: Column that holds a whole conversation where neither question nor answer has one, or None.
    """

    misspelt: Mapping[str, str]
    extra: tuple[str, ...]
    categories: tuple[str, ...]
    may_hide_clip: bool
    is_of_file: bool
    has_media: bool
    conversation: str | None


class ColumnReader:
    """Reads the columns of many rows of one file; each clip path is looked at once.

    Args:
        video_root: Folder that relative clip paths start from.
        source: The file, for messages.
        is_item: Whether rows are items of an array, and not lines.
        format: The format that they were written in.
        require_response: Whether a row needs an answer.
        url_cache: Folder that clips named by URL are fetched to; without one they are refused.
        finder: Finds files by the names of clips, where they need not be existing ones below that folder.
    """

    def __init__(
        self,
        video_root: Path,
        *,
        source: Path,
        is_item: bool,
        format: str,
        require_response: bool,
        url_cache: Path | None = None,
        finder: ClipFinder | None = None,
    ) -> None:
        self._finder = ClipNames(video_root, url_cache=url_cache) if finder is None else finder
        self._source = source
        self._is_item = is_item
        self._format = format
        self._require_response = require_response

    def locate(self, line: int) -> str:
        """Names a row as messages do."""
        return f"{self._source}: item {line}" if self._is_item else f"{self._source}:{line}"

    def read(self, columns: Mapping[str, Any], *, line: int, problems: list[Problem]) -> Columns | None:
        """Returns the typed values of one JSON object.

        Args:
            columns: The JSON object.
            line: Its line or item, from 1.
            problems: What is wrong with it is added to them.

        Returns:
            The values; None where anything is wrong.
        """
        names = _look_at_names(tuple(columns))
        if names.conversation is not None:
            problems.append(_other_format(names.conversation).at(self.locate(line)))
            return None
        num_before = len(problems)

        def report(name: str, error: ValueProblem) -> None:
            problems.append(error.at(f"{self.locate(line)} {quote(name)}"))

        misspelt = _find_misspelt(columns, names) if names.may_hide_clip else names.misspelt
        required = self._require_response
        query = response = ""
        system: str | None = None
        history: tuple[tuple[str, str], ...] = ()
        videos: tuple[ClipRef, ...] = ()
        row_id = None
        try:
            query = _read_text(columns, "query", misspelt, True, True)
        except ValueProblem as error:
            report("query", error)
        try:
            response = _read_text(columns, "response", misspelt, required, not required)
        except ValueProblem as error:
            report("response", error)
        try:
            history = _read_history(columns.get("history"))
        except ValueProblem as error:
            report("history", error)
        if columns.get("system") is not None:
            try:
                system = _read_system(columns["system"])
            except ValueProblem as error:
                report("system", error)
        if names.is_of_file:
            try:
                videos = read_videos(columns.get("videos"), self._finder.find)
            except ValueProblem as error:
                report("videos", error)
        else:
            videos = read_clips(columns, finder=self._finder, report=report)
        try:
            row_id = _read_id(columns.get("id"))
        except ValueProblem as error:
            report("id", error)
        for name in names.categories:
            if columns[name] is not None:
                try:
                    _check_category(columns[name], name)
                except ValueProblem as error:
                    report(name, error)
                break
        if names.has_media:
            for name, other_media in check_other_media(columns):
                report(name, other_media)
        had_tags = False
        if ("<" in query or history) and len(problems) == num_before:
            media: Media = "none" if not videos else "image" if is_image(videos[0]) else "video"
            if (
                media == "video"
                and len(videos) == 1
                and not history
                and (untagged := without_usual_tag(query)) is not None
            ):
                query, had_tags = untagged, True
            else:
                wrong_tag = find_tag_problem(
                    query, history, media=media, num_clips=len(videos), location=self.locate(line)
                )
                problems += [] if wrong_tag is None else [wrong_tag]
                asked = (query, history)
                query = without_tags(query, media=media)
                history = tuple((without_tags(question, media=media), answer) for question, answer in history)
                had_tags = (query, history) != asked
        for known, name in misspelt.items():
            if known in ("system", "history", "videos"):  # the required ones have reported it in their own problem
                nothing = "null" if known == "system" else "[]"
                hint = f'did you mean {quote(known)}? if not, add `"{known}": {nothing}`'
                report(
                    name, ValueProblem(f"an unknown column and no {quote(known)}", f"the column {quote(known)}", hint)
                )
        if len(problems) > num_before:
            return None
        are_texts = (
            isinstance(columns["query"], str) and isinstance(columns.get("response"), str) and not (history or system)
        )
        return {
            "query": query,
            "response": response,
            "history": history,
            "videos": videos,
            "source": self._source,
            "line": line,
            "id": row_id,
            "extra": {name: columns[name] for name in names.extra},
            "is_item": self._is_item,
            "taken_as_text": () if are_texts else tuple(_find_numbers(columns)),
            "had_tags": had_tags,
            "format": self._format,
            "urls": _find_urls(videos, self._finder.urls) if self._finder.urls else (),
            "system": system,
        }


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


def _find_urls(videos: Sequence[ClipRef], urls: Mapping[Path, str]) -> tuple[str | None, ...]:
    """Returns the URL of each clip; nothing at all where none has one."""
    found = tuple(urls.get(file_of(clip)) for clip in videos)
    return found if any(found) else ()


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


def _check_category(value: Any, name: str) -> None:
    if text_of(value) is None:
        hint = f"write one text, or rename the column: {quote(name)} says what kind of question a row asks"
        raise ValueProblem(show(value), "a string, a number or null", hint)


def _other_format(column: str) -> ValueProblem:
    hint = (
        "each answer becomes a row: its question is `query`, the answer `response`, what was said before `history`, the clip "
        "`videos`; data.format says that a file is written otherwise, and `cvft convert` makes native rows of it"
    )
    return ValueProblem(f"a conversation in {quote(column)}", "the columns `query`, `response` and `videos`", hint)


def _find_misspelt(columns: Mapping[str, Any], names: _Names) -> Mapping[str, str]:
    """Returns the misspelt columns of a row that seems to have no clip: any that holds the name of one stands for `videos`.

    Such a row would otherwise train without it.
    """
    others = (name for name in names.extra if name not in OTHER_MEDIA)
    holder = next((name for name in others if holds_clip(columns[name])), None)
    return names.misspelt if holder is None else {**names.misspelt, "videos": holder}


@lru_cache(maxsize=1000)
def _look_at_names(names: tuple[str, ...]) -> _Names:
    """Says what the names of a row's columns mean.

    A column that resembles a known one is only extra when the known one is there. `id` is left out, because every
    short name resembles it. Any name that starts with `video` stands for `videos`, one that starts with `system` for `system`.
    """
    absent = [name for name in KNOWN_COLUMNS if name not in names and name != "id"]
    extra = tuple(name for name in names if name not in READ_COLUMNS)
    misspelt: dict[str, str] = {}
    for name in extra:
        lowered = name.lower()
        near = difflib.get_close_matches(lowered, absent, n=1, cutoff=0.75)
        if not near:
            near = [known for begin, known in _BEGINNINGS.items() if lowered.startswith(begin) and known in absent]
        if near:
            misspelt.setdefault(near[0], name)
    has_row = "query" in names or "response" in names
    return _Names(
        misspelt=MappingProxyType(misspelt),
        extra=extra,
        categories=tuple(name for name in CATEGORY_COLUMNS if name in names),
        may_hide_clip="videos" in absent and "videos" not in misspelt,
        is_of_file=not any(name in names for name in (*CLIP_COLUMNS, IMAGES)),
        has_media=not MEDIA_COLUMNS.isdisjoint(names),
        conversation=None if has_row else next((name for name in _CONVERSATIONS if name in names), None),
    )


def _read_text(
    columns: Mapping[str, Any], name: str, misspelt: Mapping[str, str], is_required: bool, may_be_empty: bool
) -> str:
    text = text_of(columns.get(name))
    if text and (may_be_empty or not text.isspace()):
        return text
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
    if text is None:
        hint = "write it as one text, in quotes" if value is not None else ""
        raise ValueProblem(show(value), need, hint)
    if not may_be_empty:
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
