"""Formats of the datasets that have one of their own: `next_qa`, `activitynet_qa`, `charades_sta`, `msrvtt_qa`.

    video,...,question,answer,qid,type,a0,a1,a2,a3,a4                          NExT-QA; `answer` counts from 0, or is the text
    {"video_name": "TIEz", "question": "is ...", "question_id": "v_TIEz_2"}    ActivityNet-QA, with its answers in `*_a.json`
    AO8RW 0.0 6.9##a person is putting a book on a shelf.                      Charades-STA
    {"question": "what is ...?", "answer": "toy", "video_id": 0, "id": 0}      MSRVTT-QA

They are never found by `auto`: columns of these names may mean something else. Source: the files themselves, at the
addresses in the cards of `cvft/datasets`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cvft.data.formats.pairs import ClipEndings
from cvft.data.formats.turns import Columns, read_text, rest_of
from cvft.data.row_columns import text_of
from cvft.errors import DataError, Problem, ValueProblem, quote
from cvft.jsonl import parse_json

LINE = "line"
"""Column that a line of a text file stands in, before it is read."""

LINE_FORMATS = ("charades_sta",)
"""Formats whose files are lines of text, and not objects."""

_OPTIONS = ("a0", "a1", "a2", "a3", "a4")
_CHOICE = "Answer with the letter of the right option."

_MOMENT = re.compile(r"(?P<clip>\S+) (?P<start>\d+(?:\.\d*)?) (?P<end>\d+(?:\.\d*)?)##(?P<said>.*\S)\s*")

ACTIVITYNET_TYPES = (
    "motion",
    "spatial relationship",
    "temporal relationship",
    "yes/no",
    "color",
    "object",
    "location",
    "number",
    "other",
)
"""What `type` of an answer counts. Source: dataset/README.md of ActivityNet-QA."""


class NextQa:
    """Reads rows of NExT-QA, whose clips a file beside them finds.

    Args:
        source: The file of rows.
        find_clip: Completes names of clips.
    """

    def __init__(self, source: Path, find_clip: ClipEndings) -> None:
        self._source = source
        self._find_clip = find_clip

    @functools.cached_property
    def _folders(self) -> Mapping[str, Any]:
        return dict(_read_beside(self._source, "map_vid_vidorID.json", dict))

    def __call__(self, columns: Mapping[str, Any]) -> list[Columns]:
        """Returns the row of one question with its options.

        Raises:
            ValueProblem: when a column is missing, or the answer is none of the options.
        """
        rest = rest_of(columns, ("video", "question", "answer", "qid", "type", *_OPTIONS))
        question = read_text(columns.get("question"), "`question`", may_be_empty=False)
        options = [read_text(columns.get(name), quote(name), may_be_empty=False) for name in _OPTIONS]
        answer = read_text(columns.get("answer"), "`answer`", may_be_empty=False).strip()
        fits = [number for number, option in enumerate(options) if answer in (str(number), option.strip())]
        if len(fits) != 1:
            got = f"the answer {quote(answer)}, which is {len(fits) or 'none'} of the options"
            raise ValueProblem(got, "a number from 0 to 4, or the text of one option")
        video = read_text(columns.get("video"), "`video`", may_be_empty=False)
        place = self._folders.get(video)
        if place is None:
            raise ValueProblem(f"the clip {quote(video)}, which map_vid_vidorID.json lacks", "a clip that it has")
        listed = [f"{chr(ord('A') + number)}. {option}" for number, option in enumerate(options)]
        row = {
            "query": "\n".join([f"{question.rstrip('?')}?", *listed, _CHOICE]),
            "response": chr(ord("A") + fits[0]),
            "videos": [self._find_clip(str(place))],
            **_named(columns, category="type"),
        }
        return [row | {"id": f"{video}_{text_of(columns.get('qid'))}"} | rest]


class ActivityNetQa:
    """Reads questions of ActivityNet-QA, whose answers stand in the file beside them.

    Args:
        source: The file of questions, `*_q.json`.
        find_clip: Completes names of clips.
    """

    def __init__(self, source: Path, find_clip: ClipEndings) -> None:
        self._source = source
        self._find_clip = find_clip

    @functools.cached_property
    def _answers(self) -> Mapping[str, Mapping[str, Any]]:
        answers = _read_beside(self._source, f"{self._source.stem.removesuffix('_q')}_a.json", list)
        return {each["question_id"]: each for each in answers if isinstance(each, dict) and "question_id" in each}

    def __call__(self, columns: Mapping[str, Any]) -> list[Columns]:
        """Returns the row of one question.

        Raises:
            ValueProblem: when a column is missing, or the question has no answer.
        """
        rest = rest_of(columns, ("video_name", "question", "question_id"))
        name = read_text(columns.get("video_name"), "`video_name`", may_be_empty=False)
        key = read_text(columns.get("question_id"), "`question_id`", may_be_empty=False)
        answer = self._answers.get(key)
        if answer is None:
            raise ValueProblem(
                f"the question {quote(key)}, which has no answer", "one in the `*_a.json` beside the file"
            )
        kind = answer.get("type")
        is_known = isinstance(kind, int) and 0 <= kind < len(ACTIVITYNET_TYPES)
        row = {
            "id": key,
            "query": read_text(columns.get("question"), "`question`", may_be_empty=False),
            "response": read_text(answer.get("answer"), "`answer`", may_be_empty=False),
            "videos": [self._find_clip(f"v_{name}")],
        }
        return [row | ({"category": ACTIVITYNET_TYPES[kind]} if is_known and isinstance(kind, int) else {}) | rest]


def adapt_charades_sta(columns: Mapping[str, Any], find_clip: ClipEndings) -> list[Columns]:
    """Returns the row of one line: when what a sentence says happens. Its seconds stay as they are, also beyond the clip's end.

    Raises:
        ValueProblem: when it is no such line, or ends before it starts.
    """
    line = str(columns.get(LINE, ""))
    found = _MOMENT.fullmatch(line)
    if found is None:
        raise ValueProblem(quote(line, most=60), "`CLIP START END##what happens`")
    if float(found["end"]) <= float(found["start"]):
        raise ValueProblem(f"an end of {found['end']} s after a start of {found['start']} s", "a later end")
    row = {
        "query": f"Between which seconds does this happen: {found['said']}",
        "response": f"From {found['start']} to {found['end']} seconds.",
        "videos": [find_clip(found["clip"])],
    }
    return [row]


def adapt_msrvtt_qa(columns: Mapping[str, Any], find_clip: ClipEndings) -> list[Columns]:
    """Returns the row of one question, about `video7010` where `video_id` is 7010.

    Raises:
        ValueProblem: when a column is missing.
    """
    rest = rest_of(columns, ("question", "answer", "video_id"))
    video = text_of(columns.get("video_id"))
    if video is None or not video.isdecimal():
        raise ValueProblem(f"{quote(columns.get('video_id'))} as `video_id`", "a whole number")
    row = {
        "query": read_text(columns.get("question"), "`question`", may_be_empty=False),
        "response": read_text(columns.get("answer"), "`answer`", may_be_empty=False),
        "videos": [find_clip(f"video{video}")],
    }
    return [row | rest]


def read_lines(path: Path, raw: bytes) -> list[tuple[int, Any]]:
    """Returns each line of a text file that is not blank, with its number.

    Raises:
        DataError: It is no text.
    """
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(f"data {path}", [Problem(f"{path}:{line}", "bytes that are no UTF-8", "UTF-8 text")]) from error
    return [(number, {LINE: line}) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]


def _named(columns: Mapping[str, Any], **names: str) -> Columns:
    return {native: columns[name] for native, name in names.items() if columns.get(name) is not None}


def _read_beside(source: Path, name: str, kind: type) -> Any:
    """Reads a JSON file that the rows of another one cannot be read without.

    Raises:
        DataError: when it cannot be read, or holds something else.
    """
    path = source.with_name(name)
    need = f"the file that belongs to {quote(source.name)}"
    try:
        value = parse_json(path.read_bytes())
    except OSError as error:
        raise DataError(f"data {source}", [Problem(str(path), f"{error.strerror}", need)]) from error
    except ValueProblem as problem:
        raise DataError(f"data {source}", [problem.at(str(path))]) from problem
    if not isinstance(value, kind):
        what = "an object" if kind is dict else "a list"
        raise DataError(f"data {source}", [Problem(str(path), "something else", what)])
    return value
