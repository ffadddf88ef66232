"""Metrics: the rules by hand, every row counted, and agreement with the libraries they come from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cvft.evaluate.metrics import METRIC_NAMES, compute_metrics, is_exact_match, rouge_l, score_rows, token_f1
from cvft.runs import METRICS_FILE, RunFolder, read_metrics


@pytest.mark.parametrize(
    ("said", "right", "same"),
    [
        ("red", "red", True),
        ("  a  red\nball ", "a red ball", True),
        ("cafe\u0301", "caf\u00e9", True),  # NFC: one accent, two spellings
        ("Red", "red", False),
        ("red.", "red", False),
        ("", "red", False),
        ("", "", False),  # no answer is never right
    ],
)
def test_exact_match(said: str, right: str, same: bool) -> None:
    assert is_exact_match(said, expected=right) is same


@pytest.mark.parametrize(
    ("said", "right", "score"),
    [
        ("The red cube!", "a red cube", 1.0),  # case, punctuation and articles do not count
        ("red", "red cube", 2 / 3),  # precision 1, recall 1/2
        ("red red", "red cube", 0.5),  # a word counts as often as it was expected
        ("blue", "red", 0.0),
        ("", "red", 0.0),
        ("A", "A", 1.0),  # a choice, not an article
        ("a", "A", 1.0),
        ("B", "A", 0.0),
        ("the", "A", 0.0),
        ("", "A", 0.0),
        ("...", "...", 1.0),  # nothing but punctuation was expected
        ("!", "...", 0.0),
        ("", "...", 0.0),
        ("红色的球", "红色球", 6 / 7),  # characters are the words: 3 of 4 and 3 of 3
        ("빨간 공", "파란 공", 0.5),  # Korean has spaces
    ],
)
def test_token_f1(said: str, right: str, score: float) -> None:
    assert token_f1(said, expected=right) == pytest.approx(score)


@pytest.mark.parametrize(
    ("said", "right", "score"),
    [
        ("the cat sat", "the cat sat", 1.0),
        ("sat cat the", "the cat sat", 1 / 3),  # order counts: the longest common subsequence is one word
        ("the cat", "the cat sat", 0.8),  # precision 1, recall 2/3
        ("", "red", 0.0),
        ("红色的球", "红色球", 6 / 7),
        ("über", "uber", 0.0),
    ],
)
def test_rouge_l(said: str, right: str, score: float) -> None:
    assert rouge_l(said, expected=right) == pytest.approx(score)


def test_rouge_l_is_the_librarys_own_on_english() -> None:
    """Our words change what other scripts score, and nothing about text that the library can cut itself."""
    from rouge_score.rouge_scorer import RougeScorer

    library = RougeScorer(["rougeL"])
    for said, right in [
        ("A man opens the door, then leaves.", "The man leaves after he opened a door."),
        ("it's 3.5 seconds_long", "about 3.5 seconds"),
        ("RED-cube", "red cube"),
    ]:
        assert rouge_l(said, expected=right) == library.score(right, said)["rougeL"].fmeasure


def test_every_row_counts() -> None:
    result = compute_metrics(["red", "", "two cubes", "no"], expected=["red", "blue", "two", "yes"])
    assert {name: result[name] for name in ("num_rows", "num_empty", *METRIC_NAMES)} == {
        "num_rows": 4,
        "num_empty": 1,
        "exact_match": 0.25,
        "token_f1": pytest.approx((1 + 0 + 2 / 3 + 0) / 4),
        "rouge_l": pytest.approx((1 + 0 + 2 / 3 + 0) / 4),
    }


def test_categories_are_shown_beside_the_mean_over_all_rows() -> None:
    result = compute_metrics(
        ["red", "x", "2 s", "y"], expected=["red", "red", "2 s", "y"], categories=["colour", "colour", "time", None]
    )
    assert result["exact_match"] == 0.75  # the row without a category counts here
    assert {name: (group["num_rows"], group["exact_match"]) for name, group in result["categories"].items()} == {
        "colour": (2, 0.5),
        "time": (1, 1.0),
    }
    assert "categories" not in compute_metrics(["a"], expected=["a"], categories=[None])


def test_no_rows_give_no_numbers() -> None:
    nothing = {"num_rows": 0, "num_empty": 0, "kinds": {}, **dict.fromkeys(METRIC_NAMES)}
    assert compute_metrics([], expected=[]) == nothing


def test_scores_of_single_rows() -> None:
    assert [row.text for row in score_rows(["red", "Red"], expected=["red", "red"])] == [
        {"exact_match": 1.0, "token_f1": 1.0, "rouge_l": 1.0},
        {"exact_match": 0.0, "token_f1": 1.0, "rouge_l": 1.0},
    ]


def test_predictions_must_match_rows() -> None:
    with pytest.raises(AssertionError, match="one prediction per row"):
        compute_metrics(["a"], expected=[])


def test_metrics_of_a_run_are_read_back(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path).evaluation("base")
    assert read_metrics(folder) is None
    folder.mkdir(parents=True)
    stored = {"settings": {"num_rows": 1}, "metrics": {"num_rows": 1, "categories": {"colour": {"num_rows": 1}}}}
    (folder / METRICS_FILE).write_text(json.dumps(stored))
    assert read_metrics(folder) == stored
