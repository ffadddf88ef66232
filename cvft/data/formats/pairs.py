"""Formats of a question and an answer in columns of their own: `alpaca`, `video_chatgpt`, and the columns of a table.

    {"instruction": "Who?", "input": "", "output": "A dog.", "history": [["q", "a"]], "videos": ["a.mp4"]}
    {"q": "Who?", "a": "A dog.", "video_id": "v_abc"}
    {"video_name": "v_abc", "question_1": "Who?", "question_2": "Which animal?", "answer": "A dog."}

Source: LLaMA-Factory's data page (`alpaca`: `input` goes below `instruction`, answers of `history` are learned too);
VideoInstruct-100K and the benchmark of Video-ChatGPT (`video_chatgpt`).
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cvft.data.clip_columns import CLIP_COLUMNS
from cvft.data.formats.clips_inside import stay_inside
from cvft.data.formats.turns import Columns, Turn, read_text, rest_of, rows_of_turns, with_system
from cvft.errors import ValueProblem, quote

_ALPACA = ("instruction", "input", "output", "system", "history")

_QUESTION = ("q", "Q", "question")
_TWO_QUESTIONS = (("question_1", "Q1"), ("question_2", "Q2"))
_ANSWER = ("a", "A", "answer")
_CLIP = ("video_id", "video_name")

_TABLE = {
    "query": ("query", "question", "prompt"),
    "response": ("response", "answer", "output", "caption"),
    "videos": ("videos", "video", "video_path", "clip"),
}
"""Native column -> names that a table may give it."""

ENDINGS = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".flv", ".wmv")
"""Tried in turn where a clip is named without one."""


def is_alpaca(columns: Mapping[str, Any]) -> bool:
    """Says whether an object has `instruction` and `output`."""
    return "instruction" in columns and "output" in columns


def adapt_alpaca(columns: Mapping[str, Any]) -> list[Columns]:
    """Reads one object with `instruction`, `input` and `output`; earlier turns in `history` become rows of their own too.

    Raises:
        ValueProblem: when a text is none.
    """
    rest = with_system(rest_of(columns, _ALPACA), columns)
    query = read_text(columns.get("instruction"), "`instruction`")
    if more := columns.get("input"):
        query = f"{query}\n{read_text(more, '`input`')}" if query else read_text(more, "`input`")
    output = columns.get("output")
    turns = []
    history = [] if columns.get("history") is None else columns["history"]
    if not isinstance(history, list):
        raise ValueProblem(f"{quote(history, most=40)} as `history`", "a list of questions with their answers")
    for number, turn in enumerate(history, start=1):
        if not isinstance(turn, list) or len(turn) != 2:
            raise ValueProblem(
                f"turn {number} of `history`, {quote(turn, most=40)}", "a question and its answer in a list"
            )
        question, answer = turn
        where = f"turn {number} of `history`"
        turns.append(Turn(read_text(question, where), read_text(answer, where, may_be_empty=False)))
    response = None if output is None else read_text(output, "`output`", may_be_empty=False)
    return rows_of_turns([*turns, Turn(query, response)], rest)


def is_video_chatgpt(columns: Mapping[str, Any]) -> bool:
    """Says whether an object has a question, an answer and `video_id` or `video_name`."""
    questions = (*_QUESTION, *(name for names in _TWO_QUESTIONS for name in names))
    return all(any(name in columns for name in names) for names in (_CLIP, _ANSWER, questions))


def adapt_video_chatgpt(columns: Mapping[str, Any], find_clip: ClipEndings) -> list[Columns]:
    """Reads one object with a question, or with two that have one answer.

    The word `None` in one question beside another that says something is what the benchmark writes where there is none.

    Args:
        columns: The object.
        find_clip: Completes the name of the clip.

    Raises:
        ValueProblem: when a column is missing, or the clip's name fits several files.
    """
    found = [_one_of(columns, each) for each in (_QUESTION, *_TWO_QUESTIONS)]
    asked = [name for name in found if name is not None and columns[name] is not None]
    telling = [name for name in asked if columns[name] != "None"]
    clip, answer = _one_of(columns, _CLIP), _one_of(columns, _ANSWER)
    if clip is None or not asked:
        missing = "`video_id` or `video_name`" if clip is None else "`q` or `question`"
        raise ValueProblem(f"no column {missing}", "question, answer and clip", "data.format says how rows are written")
    rest = rest_of(columns, [*(name for name in found if name), clip, *([answer] if answer else [])])
    rest["videos"] = [find_clip(read_text(columns[clip], quote(clip), may_be_empty=False))]
    response = None if answer is None else columns[answer]
    if response is not None:
        response = read_text(response, quote(str(answer)), may_be_empty=False)
    turns = [Turn(read_text(columns[name], quote(name)), response) for name in telling or asked[:1]]
    return [row for turn in turns for row in rows_of_turns([turn], rest)]


def adapt_table(columns: Mapping[str, Any]) -> list[Columns]:
    """Reads one row of a table: native columns, or `question`, `answer`, `video` and the like; every other one is kept.

    Raises:
        ValueProblem: when two columns have one meaning, or there is no question.
    """
    found: dict[str, str] = {}
    for native, names in _TABLE.items():
        there = [name for name in names if columns.get(name) is not None]
        if len(there) > 1 and native not in there:
            both = " and ".join(map(quote, there))
            raise ValueProblem(
                f"the columns {both}", f"one column for {quote(native)}", f"name one of them {quote(native)}"
            )
        if there:
            found[native] = native if native in there else there[0]
    row = {name: value for name, value in columns.items() if name not in found.values() and name not in _TABLE}
    row |= {native: columns[name] for native, name in found.items()}
    if isinstance(row.get("videos"), str):
        row["videos"] = _read_cell(row["videos"])
    row = {name: value for name, value in row.items() if name not in CLIP_COLUMNS or value != ""}
    if "query" not in row:
        known = ", ".join(map(quote, _TABLE["query"]))
        raise ValueProblem("no column that holds a question", f"one of {known}", "rename the column")
    return [row]


def _read_cell(text: str) -> list[Any]:
    """Returns the clips that a cell of text names: a path, or a JSON list of them."""
    if text.lstrip()[:1] == "[":
        with contextlib.suppress(ValueError, RecursionError):
            named = json.loads(text)
            return named if isinstance(named, list) else [text]
    return [text] if text.strip() else []


class ClipEndings:
    """Completes names of clips that have no ending, by the files that there are.

    Args:
        root: Folder that relative names start from.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._found: dict[str, list[str]] = {}

    def __call__(self, name: str) -> str:
        """Returns the name with its ending, or as it is where no file fits.

        Raises:
            ValueProblem: when several files fit, or the name leads out of the folder.
        """
        if name not in self._found:
            stay_inside(name)
            has_ending = name.lower().endswith(ENDINGS) or os.path.lexists(self._root / name)
            endings = () if has_ending else ENDINGS
            self._found[name] = [name + end for end in endings if os.path.lexists(self._root / (name + end))]
        found = self._found[name]
        if len(found) > 1:
            both = " and ".join(map(quote, found))
            raise ValueProblem(f"the clip {quote(name)}, for which there are {both}", "one file", "move the other away")
        return found[0] if found else name


def _one_of(columns: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    return next((name for name in names if name in columns), None)
