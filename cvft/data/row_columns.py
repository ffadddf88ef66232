"""Turns the columns of one JSON object into typed values, with every problem of that row.

Refuses what would otherwise train on something else than the author meant: see `ColumnReader.read`.
"""

from __future__ import annotations

import difflib
import json
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cvft.data.tags import find_tag_problem, without_tags
from cvft.errors import Problem, ValueProblem, did_you_mean, quote

KNOWN_COLUMNS = ("id", "query", "response", "history", "videos")
"""The columns that are read; all others are kept in `Row.extra`."""

CATEGORY_COLUMNS = ("category", "family")
"""Where a row says what kind of question it asks, in `Row.extra`; the first that a row has counts. `family` is older."""

_OTHER_NAMES = {
    "query": ("question", "prompt", "instruction", "input"),
    "response": ("answer", "output", "caption"),
}
"""Column names of other formats, to say which to rename."""

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


@dataclass
class Columns:
    """The values of one row; a value whose column has a problem is left at its default."""

    problems: list[Problem] = field(default_factory=list)
    query: str = ""
    response: str = ""
    history: tuple[tuple[str, str], ...] = ()
    video: Path | None = None
    id: str | None = None


class ColumnReader:
    """Reads the columns of many rows; each clip path is looked at once.

    Args:
        video_root: Folder that relative clip paths start from.
        require_response: Whether a row needs an answer.
    """

    def __init__(self, video_root: Path, *, require_response: bool) -> None:
        self._video_root = video_root
        self._require_response = require_response
        self._seen_paths: dict[str, Path | ValueProblem] = {}

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
        try:
            found.video = self._read_video(columns.get("videos"))
        except ValueProblem as error:
            problem("videos", error)
        try:
            found.id = _read_id(columns.get("id"))
        except ValueProblem as error:
            problem("id", error)
        for name in ("images", "audios"):
            if columns.get(name):
                hint = "use `videos`, or remove the column"
                problem(name, ValueProblem("a column that is not empty", "at most one clip in `videos`", hint))
        if not found.problems:
            num_clips = 0 if found.video is None else 1
            wrong_tag = find_tag_problem(found.query, found.history, num_clips=num_clips, location=location)
            found.problems += [] if wrong_tag is None else [wrong_tag]
            found.query = without_tags(found.query)
            found.history = tuple((without_tags(question), answer) for question, answer in found.history)
        for known, name in misspelt.items():
            if known in ("history", "videos"):  # the required ones have reported it in their own problem
                hint = f'did you mean {quote(known)}? if not, add `"{known}": []`'
                problem(
                    name, ValueProblem(f"an unknown column and no {quote(known)}", f"the column {quote(known)}", hint)
                )
        return found

    def _read_video(self, videos: Any) -> Path | None:
        need = "a list with at most one path"
        if videos is None or videos == []:
            return None
        if isinstance(videos, str):
            raise ValueProblem(f"the string {quote(videos)}", need, "put it in a list: `[...]`")
        if not isinstance(videos, list):
            raise ValueProblem(_show(videos), need)
        if len(videos) > 1:
            raise ValueProblem(f"{len(videos)} clips", need, "write one row per clip")
        name = videos[0]
        if not isinstance(name, str) or not name.strip():
            raise ValueProblem(f"a list with {_show(name)}", need, "use `[]` for a row without a clip")
        if name not in self._seen_paths:
            try:
                self._seen_paths[name] = self._find_clip(name)
            except ValueProblem as error:
                self._seen_paths[name] = error
        seen = self._seen_paths[name]
        if isinstance(seen, ValueProblem):
            raise seen
        return seen

    def _find_clip(self, name: str) -> Path:
        if _URL.match(name):
            hint = "download the clip and give its path; URLs are not supported yet"
            raise ValueProblem(f"the URL {quote(name)}", "the path of a local file", hint)
        try:
            path = (self._video_root / name).resolve()
            status = path.stat()
        except FileNotFoundError as error:
            near = did_you_mean(path.name, _list_folder(path.parent))
            hint = near or "relative paths start from the folder of the data file, or from the video root when given"
            raise ValueProblem(f"{quote(name)}, which does not exist at {path}", "an existing file", hint) from error
        except (OSError, ValueError, RuntimeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise ValueProblem(f"{quote(name)}, which cannot be opened ({reason})", "a readable file") from error
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise ValueProblem(f"{quote(name)}, which is {kind}", "a video file")
        if status.st_size == 0:
            raise ValueProblem(f"{quote(name)}, which is empty (0 bytes)", "a video file", "copy or download it again")
        return path


def _find_misspelt(columns: Mapping[str, Any]) -> dict[str, str]:
    """Returns known column -> the unknown column that seems to mean it, for known columns that are absent.

    A column that resembles a known one is only extra when the known one is there. `id` is left out, because every
    short name resembles it. Any name that starts with `video` stands for `videos`: such a row would otherwise train
    without its clip.
    """
    absent = [name for name in KNOWN_COLUMNS if name not in columns and name != "id"]
    misspelt: dict[str, str] = {}
    for name in columns:
        if name in KNOWN_COLUMNS:
            continue
        lowered = name.lower()
        near = difflib.get_close_matches(lowered, absent, n=1, cutoff=0.75)
        if not near and lowered.startswith("video") and "videos" in absent:
            near = ["videos"]
        if near:
            misspelt.setdefault(near[0], name)
    return misspelt


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
    if not isinstance(value, str):
        raise ValueProblem(_show(value), need)
    if not may_be_empty and not value.strip():
        got = "only white space" if value else "an empty string"
        raise ValueProblem(got, need, "write the answer or remove the row")
    return value


def _hint_other_format(columns: Mapping[str, Any], name: str) -> str:
    for other in _OTHER_NAMES[name]:
        if other in columns:
            return f"rename {quote(other)} to {quote(name)}"
    for other in ("messages", "conversations"):
        if other in columns:
            return f"rows with {quote(other)} are not read yet; write `query`, `response` and `history`"
    return ""


def _read_history(history: Any) -> tuple[tuple[str, str], ...]:
    need = "a list of [question, answer] pairs of strings"
    if history is None:
        return ()
    if not isinstance(history, list):
        raise ValueProblem(_show(history), need)
    for number, turn in enumerate(history, start=1):
        if not isinstance(turn, list):
            raise ValueProblem(f"turn {number} = {_show(turn)}", need, "each turn is a list of two strings")
        if len(turn) != 2:
            raise ValueProblem(f"turn {number} with {len(turn)} items", need, "each turn is a list of two strings")
        for part, value in zip(("question", "answer"), turn, strict=True):
            if not isinstance(value, str):
                hint = "complete the pair or remove it"
                raise ValueProblem(f"turn {number} whose {part} is {_show(value)}", need, hint)
    return tuple((question, answer) for question, answer in history)


def _read_id(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise ValueProblem(_show(value), "a string or a whole number")


def _show(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool | float):
        return f"the {'boolean' if isinstance(value, bool) else 'number'} {quote(json.dumps(value))}"
    names = {int: "the number", str: "the string", list: "the list"}
    return f"{names.get(type(value), 'the object')} {quote(value)}"


def _list_folder(folder: Path) -> list[str]:
    """Names to compare a missing file with; none when the folder is absent too."""
    try:
        return sorted(entry.name for entry in folder.iterdir())
    except OSError:
        return []
