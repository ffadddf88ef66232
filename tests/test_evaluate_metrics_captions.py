"""BLEU, chrF and CIDEr-D: equal to the code they come from, and silent where they mean nothing."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from cvft.evaluate.metrics.captions import cider_d, score_captions

GOLDEN = Path(__file__).parent / "golden" / "cider_d.json"


def test_cider_d_is_the_published_codes() -> None:
    """200 random sets; the file says which version made its numbers."""
    sets = json.loads(GOLDEN.read_text())["sets"]
    assert len(sets) == 200
    for one in sets:
        score = cider_d(
            [said.split() for said, _ in one["pairs"]], expected=[right.split() for _, right in one["pairs"]]
        )
        assert score == pytest.approx(one["score"], rel=1e-9, abs=1e-9)


def test_cider_d_of_one_right_answer_is_no_number() -> None:
    """Its weights are all 0 there, so that even the right answer would get 0."""
    words = ["a", "red", "ball", "rolls"]
    assert cider_d([words], expected=[words]) is None
    assert cider_d([words] * 3, expected=[words] * 3) is None
    assert cider_d([words, ["b"]], expected=[words, ["a", "blue", "cube", "falls"]]) is not None


def test_bleu_and_chrf_are_sacrebleus() -> None:
    from sacrebleu import corpus_bleu, corpus_chrf

    rng = random.Random(0)
    words = ["a", "red", "ball", "rolls", "over", "the", "green", "field", "while", "two", "dogs", "run"]
    right = [" ".join(rng.choices(words, k=rng.randint(4, 12))) for _ in range(200)]
    said = [" ".join(rng.choices(words, k=rng.randint(0, 12))) for _ in range(200)]
    scores = score_captions(said, expected=right)
    assert scores is not None
    assert scores["bleu"] == corpus_bleu(said, [right]).score
    assert scores["chrf"] == corpus_chrf(said, [right]).score
    assert "tok:13a" in scores["bleu_signature"]
    assert "version:" in scores["chrf_signature"]


def test_chinese_is_cut_into_characters() -> None:
    right = ["一个红色的球滚过草地", "两只狗在跑"]
    scores = score_captions(right, expected=right)
    assert scores is not None
    assert scores["bleu"] == pytest.approx(100)
    assert "tok:zh" in scores["bleu_signature"]


def test_short_answers_have_no_such_scores() -> None:
    """BLEU of a right answer of one word is 0."""
    assert score_captions(["red", "blue"], expected=["red", "blue"]) is None
    assert score_captions([], expected=[]) is None
