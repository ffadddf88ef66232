"""The time parser: each written form with what it says, or None, and overlaps and distances by hand."""

from __future__ import annotations

import math

import pytest

from cvft.data.times import Span, is_time, read_time
from cvft.evaluate.metrics.moments import distance, distances, overlap

FORMS: list[tuple[str, tuple[float, float] | None]] = [
    ("from 3 to 7", (3, 7)),
    ("From 3 to 7.", (3, 7)),
    ("between 3 and 7 seconds", (3, 7)),
    ("[3, 7]", (3, 7)),
    ("[3,7]", (3, 7)),
    ("<3.0><7.0>", (3, 7)),
    ("<3s> <7s>", (3, 7)),
    ("0:12–1:05", (12, 65)),
    ("00:00:03,500 --> 00:00:07,250", (3.5, 7.25)),
    ("第2秒至第4秒", (2, 4)),
    ("从第2秒到第4秒", (2, 4)),
    ("从2秒到4秒", (2, 4)),
    ("2秒到4秒", (2, 4)),
    ("2到4秒", (2, 4)),
    ("第2-4秒", (2, 4)),
    ("三到五秒", (3, 5)),
    ("第三秒", (3, 3)),
    ("在3秒处", (3, 3)),
    ("两秒", (2, 2)),
    ("十二秒", (12, 12)),
    ("1分12秒", (72, 72)),
    ("1分12秒到2分3秒", (72, 123)),
    ("３秒～７秒", (3, 7)),
    ("大约3秒", (3, 3)),
    ("前5秒", (0, 5)),
    ("最后5秒", None),
    ("持续5秒", None),
    ("3秒开始,7秒结束", (3, 7)),
    ("开始于3秒,结束于7秒", (3, 7)),
    ("3-7 s", (3, 7)),
    ("3-7", (3, 7)),
    ("3 - 7 seconds", (3, 7)),
    ("3s-7s", (3, 7)),
    ("3~7s", (3, 7)),
    ("3..7 s", (3, 7)),
    ("1 to 2 minutes", (60, 120)),
    ("7 to 3 s", (3, 7)),
    ("from second 3 to second 7", (3, 7)),
    ("from the 3rd to the 7th second", (3, 7)),
    ("from three to seven seconds", (3, 7)),
    ("between three and seven", (3, 7)),
    ("twenty-five seconds", (25, 25)),
    ("starts at 3 s and ends at 7 s", (3, 7)),
    ('{"start": 3, "end": 7}', (3, 7)),
    ("start: 3.2, end: 7.5", (3.2, 7.5)),
    ("start_time: 3.2 end_time: 7", (3.2, 7)),
    ("It begins at 0:12 and ends around 0:15", (12, 15)),
    ("ends at 7 s, starts at 3 s", (3, 7)),
    ("at 3 s", (3, 3)),
    ("3", (3, 3)),
    ("3.5", (3.5, 3.5)),
    ("at about 3", (3, 3)),
    ("3 seconds", (3, 3)),
    ("second 3", (3, 3)),
    ("At second three.", (3, 3)),
    ("t=3", (3, 3)),
    ("t = 3.5s", (3.5, 3.5)),
    ("@3s", (3, 3)),
    ("the 3rd second", (3, 3)),
    ("0:12", (12, 12)),
    ("1:02:03", (3723, 3723)),
    ("1 min 12 s", (72, 72)),
    ("1m12s", (72, 72)),
    ("1h2m3s", (3723, 3723)),
    ("1 minute and 12 seconds", (72, 72)),
    ("1'12\"", (72, 72)),
    ('3"', (3, 3)),
    ("after 3 seconds", (3, 3)),
    ("3 seconds into the video", (3, 3)),
    ("2 people walk from second 10 to 12", (10, 12)),
    ("2 people walk by between 10 and 12 seconds", (10, 12)),
    ("3 to 7 people", None),
    ("from 3 to 7 people", None),
    ("between 3 and 7 people", None),
    ("from 3 to 7 the man runs", (3, 7)),
    ("a 3-second clip", None),
    ("for 5 seconds", None),
    ("it lasts 5 seconds", None),
    ("5 seconds later", None),
    ("the last 5 seconds", None),
    ("the first 5 seconds", (0, 5)),
    ("until 5 s", (0, 5)),
    ("from 5 s to the end", (5, 5)),
    ("at 5:30 pm", None),
    ("the score is 3:2", None),
    ("3-7%", None),
    ("frames 10 to 20", None),
    ("3,5 s", (3.5, 3.5)),
    ("1,000 s", (1000, 1000)),
    ("for 3 seconds starting at 10 s", (10, 10)),
    ("", None),
    ("never", None),
    ("the second man", None),
    ("The event happens in the 24.3 - 30.4 seconds", (24.3, 30.4)),
    ("from 24.3 to 30.4 seconds", (24.3, 30.4)),
    ("3 to 5 s and 8 to 9 s", (3, 5)),
    ("from 3 s up to about 7 s", (3, 7)),
    ("12.5 sec to 13 sec", (12.5, 13)),
    ("from 3 m to 7 m", None),
    ("(3, 7)", (3, 7)),
    ("from 0:12 to 0:15", (12, 15)),
    ("0:12-15", (12, 12)),
    ("3 s → 7 s", (3, 7)),
    ("3s to 7s", (3, 7)),
    ("two red cars", None),
    ("<timestamp>3</timestamp>", None),
    ("in the 4th second", (4, 4)),
    ("between the 2nd and 4th second", (2, 4)),
    ("12:30 a.m.", None),
    ("3 seconds ago", None),
    ("the first second", None),
    ("the second one", None),
    ("person 3", None),
    ("room 12", None),
    ("3 m away", None),
    ("from 5 to 9, then from 12 to 15", (5, 9)),
    ("between 1:05 and 1:20", (65, 80)),
    ("1:05.5 to 1:20.25", (65.5, 80.25)),
    ("in seconds 4 to 6", (4, 6)),
    ("it starts at the 3rd second and stops at the 9th second", (3, 9)),
    ("从第二秒到第十秒", (2, 10)),
    ("在第5秒", (5, 5)),
    ("1分钟", (60, 60)),
    ("二十五秒", (25, 25)),
    ("3秒至8秒之间", (3, 8)),
    ("{3, 7}", (3, 7)),
    ("about 12 to 15 seconds", (12, 15)),
    ("around 12 s", (12, 12)),
    ("6.0s - 9.5s", (6, 9.5)),
    ("1h", (3600, 3600)),
    ("From 0 to 0", (0, 0)),
]


@pytest.mark.parametrize(("text", "right"), FORMS)
def test_form(text: str, right: tuple[float, float] | None) -> None:
    said = read_time(text)
    assert (None if said is None else (said.start_s, said.end_s)) == right


def test_the_table_is_long_and_says_each_form_once() -> None:
    assert len(FORMS) == len({text for text, _ in FORMS}) >= 120


@pytest.mark.parametrize("around", ["{}", " {} ", "The event is seen {}.", "{}, I think", "ANSWER: {}"])
@pytest.mark.parametrize(
    "text", ["from 3 s to 7 s", "between 3 and 7 seconds", "[3, 7]", "0:03–0:07", "从第3秒到第7秒", "３秒～７秒"]
)
def test_words_around_a_time_do_not_change_it(text: str, around: str) -> None:
    assert read_time(around.format(text)) == Span(3, 7)


@pytest.mark.parametrize(
    ("text", "only_a_time"),
    [
        ("from 3 to 7", True),
        ("At 0:12.", True),
        ("第2秒至第4秒。", True),
        ("between 3 and 7 seconds", True),
        ("the man runs from 3 to 7", False),
        ("red", False),
        ("", False),
        ("3 people", False),
    ],
)
def test_an_answer_that_is_a_time_and_nothing_else(text: str, only_a_time: bool) -> None:
    assert is_time(text) is only_a_time


def test_no_text_ends_badly() -> None:
    """Whatever is typed is a time or none."""
    pieces = [
        "3",
        "7.5",
        ":",
        "12",
        "s",
        " ",
        "from",
        "to",
        "第",
        "秒",
        "[",
        "]",
        "<",
        ">",
        "-",
        "'",
        '"',
        ",",
        "two",
        "分",
        "=",
        "\u2028",
    ]
    import random

    rng = random.Random(0)
    for _ in range(20_000):
        text = "".join(rng.choice(pieces) for _ in range(rng.randint(0, 9)))
        said = read_time(text)
        assert said is None or 0 <= said.start_s <= said.end_s < math.inf
        is_time(text)


@pytest.mark.parametrize(
    ("said", "right", "score"),
    [
        (Span(3, 7), Span(3, 7), 1.0),
        (Span(4, 7), Span(3, 7), 4 / 5),  # whole seconds: [4, 8) of [3, 8)
        (Span(3, 3, is_range=False), Span(3, 3), 1.0),
        (Span(3, 3, is_range=False), Span(3, 7), 1 / 5),
        (Span(8, 9), Span(3, 7), 0.0),  # [8, 10) begins where [3, 8) ends
        (Span(3.5, 8.0, is_whole=False), Span(3, 7), 4.5 / 5),  # only the right one is whole
        (Span(3.5, 7.0, is_whole=False), Span(3.0, 7.5, is_whole=False), 3.5 / 4.5),
        (Span(3, 7), Span(3.0, 7.5, is_whole=False), 4 / 4.5),  # with decimals, ends are points
        (Span(2.5, 2.5, is_whole=False), Span(2.5, 2.5, is_whole=False), 1.0),  # equal instants
        (Span(2.5, 2.5, is_whole=False), Span(2.0, 3.5, is_whole=False), 0.0),
        (None, Span(3, 7), 0.0),
    ],
)
def test_overlap(said: Span | None, right: Span, score: float) -> None:
    assert overlap(said, right=right) == pytest.approx(score)


def test_distances() -> None:
    assert distances(Span(4, 9), right=Span(3, 7)) == (1, 2)
    assert distances(None, right=Span(3, 7)) == (math.inf, math.inf)
    assert distance(Span(4, 8), right=Span(5, 5, is_range=False)) == 1  # the middle of the interval
    assert distance(None, right=Span(5, 5)) == math.inf
