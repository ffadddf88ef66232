"""Answers to rows as files: JSONL for programs, CSV for tables, SRT for moments of a clip.

rows + answers -> text, whole; what a form cannot hold is refused before anything is answered, or said
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Literal

from cvft.data.rows import Row
from cvft.data.times import read_time
from cvft.data.video.spec import ClipSpec, describe, file_of
from cvft.errors import CvftError, Problem
from cvft.families.answering import Answer
from cvft.jsonl import to_jsonl

Form = Literal["jsonl", "csv", "srt"]

COLUMNS = ("id", "video", "query", "prediction", "is_cut")
"""Columns of a CSV file."""


def check_form(rows: Sequence[Row], form: Form) -> None:
    """Refuses rows that a form has no place for.

    Raises:
        CvftError: when subtitles would be about several clips, or none.
    """
    if form == "srt" and (len({row.videos for row in rows}) != 1 or len(rows[0].videos) != 1):
        num_clips = len({clip for row in rows for clip in row.videos})
        got = f"rows about {num_clips} clips" if num_clips else "rows without a clip"
        hint = "subtitles belong to one clip: use `--format csv`, or answer the rows of one clip at a time"
        raise CvftError("command line", [Problem("--format srt", got, "rows about one clip", hint)])


def write_answers(rows: Sequence[Row], answers: Mapping[int, Answer], form: Form) -> str:
    """Writes answers in the order of their rows.

    Args:
        rows: The rows.
        answers: Answers by the numbers of the rows, from 0; a row without one is left out.
        form: `jsonl`, `csv` or `srt`.
    """
    numbers = sorted(answers)
    if form == "jsonl":
        return to_jsonl(
            {**rows[number].to_json(), "prediction": answers[number].text, "is_cut": answers[number].is_cut}
            for number in numbers
        )
    return (_to_csv if form == "csv" else _to_srt)([(rows[number], answers[number]) for number in numbers])


def count_moments(answers: Mapping[int, Answer]) -> int:
    """Returns how many answers name a time."""
    return sum(read_time(answer.text) is not None for answer in answers.values())


def _names(row: Row) -> str:
    """Returns how a row names its clips: their URLs, or else their files, and what of them is meant."""
    return " ".join(describe(clip, row.clips_by_url.get(clip, str(file_of(clip)))) for clip in row.videos)


def _to_csv(answered: Sequence[tuple[Row, Answer]]) -> str:
    file = io.StringIO()
    table = csv.writer(file)
    table.writerow(COLUMNS)
    for row, answer in answered:
        table.writerow((row.id or "", _names(row), row.query, answer.text, str(answer.is_cut).lower()))
    return file.getvalue()


def _to_srt(answered: Sequence[tuple[Row, Answer]]) -> str:
    cues = []
    for row, answer in answered:
        span = read_time(answer.text)
        (clip,) = row.videos
        begin_s = (clip.start_s or 0) if isinstance(clip, ClipSpec) else 0  # subtitles play along the file
        if span is not None:
            # as in the metrics, a whole second is the one that begins there
            end_s = span.end_s + 1 if span.is_whole else max(span.end_s, span.start_s + 0.5)
            cues.append((begin_s + span.start_s, begin_s + end_s, " ".join(f"{row.query} {answer.text}".split())))
    parts = [
        f"{number}\n{_clock(start_s)} --> {_clock(end_s)}\n{text}\n"
        for number, (start_s, end_s, text) in enumerate(sorted(cues), 1)
    ]
    return "\n".join(parts)


def _clock(second: float) -> str:
    """Writes a time as SubRip does: `00:01:02,500`."""
    milliseconds = round(second * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02},{rest % 1000:03}"
