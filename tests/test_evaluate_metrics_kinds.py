"""Kinds of answers: which a row is, what is read from an answer, canaries for the faults of public scorers."""

from __future__ import annotations

import random
from typing import Any

import pytest

from cvft.evaluate.metrics import compute_metrics, score_rows
from cvft.evaluate.metrics.choices import find_options, read_choice
from cvft.evaluate.metrics.closed import OTHER, closed_set, is_number, is_yes_no, read_label, read_number, read_yes_no
from cvft.evaluate.metrics.kinds import KINDS, kind_of

OPTIONS = {"A": "a dog", "B": "a cat", "C": "a red car", "D": "a car"}
LISTED = "What is shown?\nA. a dog\nB. a cat\nC. a red car\nD. a car"


@pytest.mark.parametrize(
    ("right", "query", "kind"),
    [
        ("B", LISTED, "choice"),
        ("a cat", LISTED, "choice"),
        ("B. a cat", LISTED, "choice"),
        ("B", "Which letter is shown?", "text"),
        ("yes", "Is it red?", "yes_no"),
        ("不是", "是红色吗?", "yes_no"),
        ("from 3 to 7", "When?", "interval"),
        ("from 3 to 3", "When?", "interval"),  # two ends are written
        ("at 3 s", "When?", "seconds"),
        ("0:12", "When?", "seconds"),
        ("第3秒", "什么时候?", "seconds"),
        ("3", "How many?", "number"),
        ("two", "How many?", "number"),
        ("red", "What colour?", "text"),
        ("never", "When?", "text"),
        ("the second one", "Which?", "text"),
        ("3 to 7 people", "How many?", "text"),
    ],
)
def test_the_right_answer_says_the_kind(right: str, query: str, kind: str) -> None:
    assert kind_of(right, query=query).name == kind


def test_a_row_may_state_its_kind_where_its_answer_can_be_read_so() -> None:
    assert kind_of("12", query="When?", stated="seconds").name == "seconds"
    assert kind_of("red", query="When?", stated="seconds").name == "text"
    assert kind_of("12", query="When?", stated="colours").name == "number"


@pytest.mark.parametrize(
    ("question", "options"),
    [
        (LISTED, OPTIONS),
        ("What?\n(A) a dog\n(B) a cat", {"A": "a dog", "B": "a cat"}),
        ("哪个? A、红色 B、蓝色", {"A": "红色", "B": "蓝色"}),
        ("出现了哪一个？A. 红色的圆形 B. 蓝色的正方形", {"A": "红色的圆形", "B": "蓝色的正方形"}),
        ("选一个：（A）红色；（B）蓝色", {"A": "红色", "B": "蓝色"}),
        ("A：红色，B：蓝色。", {"A": "红色", "B": "蓝色。"}),
        ("Pick: A) yes, B) no", {"A": "yes", "B": "no"}),
        ("Options: A: 3 s; B: 5 s; C: 7.5 s", {"A": "3 s", "B": "5 s", "C": "7.5 s"}),
        ("Who is at A. B. Smith's house?", {}),
        ("What is A. doing?", {}),
    ],
)
def test_options(question: str, options: dict[str, str]) -> None:
    assert find_options(question) == options


@pytest.mark.parametrize(
    ("said", "letter"),
    [
        *[
            (said, "B")
            for said in ("B", "b", "(B)", "B.", "B. a cat", "**B**", "The answer is B.", "选B", "A cat", "B) a cat")
        ],
        *[("I think B", "B"), ("Answer: (C)", "C"), ("选择 C", "C"), ("答案是D", "D"), ("[C]", "C"), ("It's D", "D")],
        *[("a dog", "A"), ("A dog.", "A"), ("a", "A"), ("the best option is (A)", "A"), ("option d is right", "D")],
        *[("I see a red car here", "C"), ("a car", "D"), ("C\nBecause the car is red", "C")],
        # nothing, several, or a letter that its own text contradicts: wrong, and never drawn at random
        *[
            (said, None)
            for said in ("", "(", ".", "E", "A or B", "B and C", "It is a dog and a cat", "B. a dog", "none of them")
        ],
    ],
)
def test_choice(said: str, letter: str | None) -> None:
    assert read_choice(said, options=OPTIONS) == letter


@pytest.mark.parametrize("empty", ["", "(", ".", " ", "\n"])
def test_nothing_said_is_no_right_choice(empty: str) -> None:
    """A public scorer takes `''`, `'('` and `'.'` for right, because they lie within `(A)`; another leaves them out."""
    metrics = compute_metrics([empty] * 9 + ["A"], expected=["A"] * 10, queries=[LISTED] * 10)
    choice = metrics["kinds"]["choice"]
    assert (choice["num_rows"], choice["num_unread"], choice["accuracy"]) == (10, 9, 0.1)


@pytest.mark.parametrize(
    ("said", "value"),
    [
        ("Yes.", True),
        ("yeah", True),
        ("No, it is not red.", False),
        ("It isn't.", False),
        ("是的", True),
        ("没有", False),
        ("不是", False),
        ("I think so, yes", True),
        ("It is red.", None),
        ("yes and no", None),
        ("", None),
        ("notable", None),
    ],
)
def test_yes_no(said: str, value: bool | None) -> None:
    assert read_yes_no(said) is value


def test_what_is_yes_or_no_and_a_number_and_nothing_else() -> None:
    assert [is_yes_no(text) for text in ("Yes", "no.", "是", "yes, red", "not", "")] == [
        True,
        True,
        True,
        False,
        False,
        False,
    ]
    assert [is_number(text) for text in ("3", "-3.5", "two", "twenty-five", "三", "3.", "2 cars", "", "-")] == [
        True
    ] * 6 + [False] * 3


@pytest.mark.parametrize(
    ("said", "value"),
    [
        ("two", 2),
        ("There are 2 cars.", 2),
        ("2 or 3", None),
        ("-3.5", -3.5),
        ("1,000", 1000),
        ("一百二十", 120),
        ("none", None),
        ("", None),
        ("two hundred and six", 206),
        ("twenty-five", 25),
        ("2 cars, two", 2),
    ],
)
def test_number(said: str, value: float | None) -> None:
    assert read_number(said) == value


def test_closed_sets() -> None:
    right = ["red", "Blue", "red.", "blue", "green", "red", "green", "blue", "green"]
    labels = closed_set(right)
    assert labels == ["blue", "green", "red"]
    assert [read_label(said, labels=labels) for said in ("Red!", "it is green", "red or blue", "", "dark")] == [
        "red",
        "green",
        OTHER,
        OTHER,
        OTHER,
    ]
    assert closed_set(right[:5]) is None  # too few rows
    assert closed_set(["a man opens the door slowly"] * 9) is None
    metrics = compute_metrics(["red"] * 9, expected=right)["labels"]
    assert metrics["accuracy"] == pytest.approx(1 / 3)
    assert metrics["macro_f1"] == pytest.approx((2 * 3 / 12) / 3)
    assert metrics["confusion"] == [[0, 0, 3, 0], [0, 0, 3, 0], [0, 0, 3, 0]]


def test_times_of_a_set_of_rows() -> None:
    metrics = compute_metrics(
        ["from 3 to 7", "from 4 to 7", "no idea", "5 s", "8 s"], expected=["from 3 to 7"] * 3 + ["5 s", "at 6 seconds"]
    )["kinds"]
    interval, seconds = metrics["interval"], metrics["seconds"]
    assert (interval["num_rows"], interval["num_unread"]) == (3, 1)
    assert interval["tiou"] == pytest.approx((1 + 0.8 + 0) / 3)
    assert interval["overlap_0.7"] == pytest.approx(2 / 3)
    assert interval["median_start_error_s"] == 1  # of 0, 1 and infinite
    assert seconds == {
        "num_rows": 2,
        "num_unread": 0,
        "within_0_s": 0.5,
        "within_1_s": 0.5,
        "within_2_s": 1.0,
        "median_error_s": 1.0,
    }
    lost = compute_metrics(["", "", "5 s"], expected=["5 s"] * 3)["kinds"]["seconds"]
    assert lost["median_error_s"] is None  # most answers name no time: there is no middle
    assert [score.to_json() for score in score_rows([""], expected=["5 s"])] == [
        {
            "is_exact_match": False,
            "kind": "seconds",
            "extracted": None,
            "within_0_s": 0.0,
            "within_1_s": 0.0,
            "within_2_s": 0.0,
            "error_s": None,
        }
    ]


RIGHT = {
    "choice": ["A", "B", "(C)"],
    "yes_no": ["yes", "no"],
    "interval": ["from 3 to 7", "0:12-0:15", "第2秒至第4秒"],
    "seconds": ["5 s", "at 0:12"],
    "number": ["3", "two"],
    "text": ["red", "a man opens the door", "红色的球"],
}


def test_an_empty_answer_never_raises_a_score() -> None:
    """Neither as one more row nor in the place of any answer, in any kind; distances never get less."""
    assert set(RIGHT) == set(KINDS)
    rng = random.Random(0)
    every = [(right, LISTED if kind == "choice" else "?") for kind, answers in RIGHT.items() for right in answers]
    for _ in range(60):
        rows = [rng.choice(every) for _ in range(rng.randint(2, 12))]
        said = [rng.choice([right, rng.choice(every)[0], "", "nothing of this"]) for right, _ in rows]
        before = _numbers(said, rows)
        index = rng.randrange(len(rows))
        replaced = _numbers([*said[:index], "", *said[index + 1 :]], rows)
        added = _numbers([*said, ""], [*rows, rows[index]])
        for name, value in before.items():
            # whole sets: a worse answer less may raise BLEU and chrF, and one more right answer changes all weights of CIDEr-D
            if "bleu" not in name and "chrf" not in name:
                assert replaced[name] <= value + 1e-12, name
            if "cider" not in name and name in added:
                assert added[name] <= value + 1e-12, name


def _numbers(said: list[str], rows: list[tuple[str, str]]) -> dict[str, float]:
    """Every score of a set of rows; distances with their sign turned, so that more is better."""
    metrics = compute_metrics(said, expected=[right for right, _ in rows], queries=[query for _, query in rows])
    found: dict[str, float] = {}

    def walk(prefix: str, values: dict[str, Any]) -> None:
        for name, value in values.items():
            if isinstance(value, dict):
                walk(f"{prefix}{name}.", value)
            elif name.startswith("median_"):
                found[prefix + name] = -1e9 if value is None else -value
            elif isinstance(value, float):
                found[prefix + name] = value

    walk("", metrics)
    return found
