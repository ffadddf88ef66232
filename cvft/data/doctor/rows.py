"""What is odd about rows that can be trained on: repeated, contradictory, one-sided, or with text that nobody meant.

rows + facts of their clips -> findings, in the order of the rows
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from cvft.data.doctor.findings import Finding, find
from cvft.data.rows import Row, category_of
from cvft.data.tags import CONTROL_TOKEN, find_tag
from cvft.data.times import read_time
from cvft.data.video.process import ClipInfo
from cvft.data.video.sample import Sampling, shown_seconds
from cvft.data.video.spec import ClipRef, content_of, sampling_for
from cvft.errors import quote

MOST_OF_ONE_ANSWER = 0.9
"""Share of a category's rows that may have one answer."""

MIN_ROWS_OF_CATEGORY = 20
"""Of fewer rows nothing is said: one or two other answers would decide."""

BLANKS = frozenset(("none", "n/a", "na", "null", "nil", "nan", "undefined", "<na>", "-", "--", "...", "…", "?"))
"""Words that programs write where there is nothing, in lower case.

Source: what `str` makes of Python's None and of NaN, what pandas reads as missing (`na_values` of `read_csv`), JavaScript; the
benchmark set of Video-ChatGPT has the question `None` in its Consistency rows.
"""

PLACEHOLDERS = ("QA_GT_caption_based_noisy",)
"""Words of programs that made a data set. Source: VideoInstruct-100K, where it stands inside questions and answers."""

_ASKS_FOR_TIME = re.compile(r"\b(?:when|seconds?|time|timestamps?|moments?|minutes?)\b|秒|时", re.IGNORECASE)
_BARE_NUMBER = re.compile(r"\W*[\d.,]+\W*")


def check_rows(rows: Sequence[Row], clips: Mapping[ClipRef, ClipInfo], *, sampling: Sampling) -> list[Finding]:
    """Finds what is odd about rows.

    Args:
        rows: Rows of all files.
        clips: Facts of the clips that decode; rows of others are looked at too, but for times.
        sampling: The rule that chooses frames.
    """
    findings = [*_compare_rows(rows, clips), *_count_answers(rows)]
    for row in rows:
        findings += _look_at_texts(row)
        if len(row.videos) == 1 and row.videos[0] in clips:  # of several, nobody knows which of them a second is of
            (clip,) = row.videos
            findings += _look_at_time(row, clips[clip], sampling_for(clip, sampling))
    return findings


def _compare_rows(rows: Iterable[Row], clips: Mapping[ClipRef, ClipInfo]) -> Iterator[Finding]:
    """Compares the rows that ask one question about the same clips, which are told by their bytes where they were read."""
    asked: dict[object, list[Row]] = defaultdict(list)
    for row in rows:
        seen = tuple(content_of(clip, clips[clip].sha256) if clip in clips else clip for clip in row.videos)
        asked[seen, row.system, row.query, row.history].append(row)
    for alike in asked.values():
        first = alike[0]
        answered = {first.response: first}
        for row in alike[1:]:
            same = answered.setdefault(row.response, row)
            if same is not row:
                got = f"the row of {_name(same, beside=row)} again"
                yield find("duplicate_row", row.location, got, "each row once", rows=[row])
            elif _fold(row.response) != _fold(first.response):
                got = f"{quote(row.response, most=40)} where {_name(first, beside=row)} answers {quote(first.response, most=40)}"
                yield find("conflicting_answers", row.location, got, "one answer to one question", rows=[row, first])


def _count_answers(rows: Iterable[Row]) -> Iterator[Finding]:
    answers: dict[str | None, Counter[str]] = defaultdict(Counter)
    for row in rows:
        answers[category_of(row)][_fold(row.response)] += 1
    for category, counts in answers.items():
        answer, count = counts.most_common(1)[0]
        if counts.total() >= MIN_ROWS_OF_CATEGORY and count > MOST_OF_ONE_ANSWER * counts.total():
            where = "the rows without a category" if category is None else f"category {quote(category)}"
            got = f"the answer {quote(answer, most=40)} in {count} of {counts.total()} rows"
            yield find("one_answer", where, got, f"at most {MOST_OF_ONE_ANSWER:.0%} of one answer", rows=())


def _look_at_texts(row: Row) -> Iterator[Finding]:
    questions = [*(("history", question) for question, _ in row.history), ("query", row.query)]
    questions += [] if row.system is None else [("system", row.system)]
    answers = [*(("history", answer) for _, answer in row.history), ("response", row.response)]
    if row.had_tags:
        need = "no tag: the clip always comes first"
        yield find("tag_taken_out", row.location, "a tag for the clip", need, rows=[row])
    for column, text in (*questions, *answers):
        where = f"{row.location} {quote(column)}"
        if text.strip().lower() in BLANKS:
            yield find("blank_text", where, quote(text), "text that says something", rows=[row])
        if token := CONTROL_TOKEN.search(text):
            yield find("control_token_text", where, quote(token[0]), "text without control tokens", rows=[row])
        for words in PLACEHOLDERS:
            if words.lower() in text.lower():
                yield find("placeholder_text", where, quote(words), "text that a person would write", rows=[row])
    for column, text in answers:
        # a tag that looks like a control token is told once
        if (tag := find_tag(text)) and not CONTROL_TOKEN.search(text):
            yield find(
                "tag_in_answer", f"{row.location} {quote(column)}", quote(tag), "an answer without tags", rows=[row]
            )


def _look_at_time(row: Row, info: ClipInfo, sampling: Sampling) -> Iterator[Finding]:
    named = read_time(row.response)
    # a bare number is a time only where one is asked for: `5` may count dogs
    if named is None or (_BARE_NUMBER.fullmatch(row.response) and not _ASKS_FOR_TIME.search(row.query)):
        return
    shown_s = shown_seconds(
        num_frames_total=info.num_frames_total, avg_fps=info.avg_fps, duration_s=info.duration_s, sampling=sampling
    )
    # an end written in whole seconds may be the clip's end, rounded up
    end_s = float(math.ceil(info.duration_s)) if named.is_whole else info.duration_s + 0.5 / info.avg_fps
    got = f"{quote(row.response, most=40)}, second {named.end_s:g}"
    if named.end_s > end_s:
        need = f"a second of the clip, which ends at {info.duration_s:.1f} s"
        yield find("time_beyond_clip", f"{row.location} `response`", got, need, rows=[row])
    elif shown_s < info.duration_s and named.end_s >= shown_s:
        need = f"a second that is shown: the first {shown_s:g} s of {info.duration_s:.1f} s"
        yield find("time_not_shown", f"{row.location} `response`", got, need, rows=[row])


def _fold(answer: str) -> str:
    """Returns an answer without what does not make it another one: case, white space, a full stop."""
    return " ".join(answer.split()).rstrip(".").casefold()


def _name(row: Row, *, beside: Row) -> str:
    if row.source != beside.source:
        return row.location
    return f"{'item' if row.is_item else 'line'} {row.line}"
