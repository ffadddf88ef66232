"""Words in any script: different answers score below 1, equal ones 1, and plain English as the published metrics score it."""

from __future__ import annotations

import random
import string
from collections import Counter

import pytest

from cvft.evaluate.metrics import rouge_l, token_f1
from cvft.evaluate.metrics.words import rouge_words, squad_words

DIFFERENT = [
    ("की", "का"),  # Hindi: one vowel sign
    ("ดี", "ดู"),  # Thai
    ("คน", "คนดี"),
    ("كِتَاب", "كُتَّاب"),  # Arabic: vowel marks and a doubled letter
    ("שָׁלוֹם", "שְׁלוֹם"),  # Hebrew
    ("வீடு", "வடு"),  # Tamil
    ("Đường", "Đưởng"),  # Vietnamese: one tone
    ("🔴", "🔵"),
    ("👍🏻", "👍🏿"),
    ("👩‍🚒", "👩"),
    ("🇩🇪", "🇫🇷"),
    ("←", "→"),
    ("-3", "3"),
    ("−3", "3"),
    ("-3 °C", "3 °C"),
    ("-$3", "$3"),
    ("C++", "C#"),
    ("C++", "C"),
    ("F#", "F"),
    ("𠀀", "𠀁"),
    ("ば", "は"),
]

DIFFERENT_WORDS_ALONE = [
    ("3.5", "35"),
    ("3,5", "35"),
    (".5", "5"),
    ("10:30", "1030"),
    ("10:30", "10.30"),
    ("1/2", "12"),
    ("3-5", "35"),
    ("2024-01-02", "20240102"),
    ("٣٫٥", "٣٥"),
    ("A+", "A-"),
    ("x < 3", "x > 3"),
]
"""Only for token F1: rouge-score cuts numbers at the point, and so do we, to score English alike."""

SAME = [
    ("红色。", "红色"),
    ("「红色」", "红色"),
    ("“red”", "red"),
    ("it’s", "it's"),
    ("«rouge»", "rouge"),
    ("¿rojo?", "rojo"),
    ("लाल।", "लाल"),
    ("أحمر؟", "أحمر"),
    ("red…", "red"),
    ("3–5", "3-5"),
    ("−3", "-3"),
    ("cafe\u0301", "café"),
    ("\u200ered\u200f", "red"),
    ("❤️", "❤"),
    ("red — blue", "red blue"),
    ("Москва!", "москва"),
]


@pytest.mark.parametrize(("said", "right"), DIFFERENT)
def test_different_words_score_below_one(said, right):
    for one, other in ((said, right), (right, said), (f"so {said}", f"so {right}")):
        assert token_f1(one, expected=other) < 1
        assert rouge_l(one, expected=other) < 1


@pytest.mark.parametrize(("said", "right"), DIFFERENT_WORDS_ALONE)
def test_numbers_and_names_keep_what_makes_them_others(said, right):
    for one, other in ((said, right), (right, said), (f"at {said}.", f"at {right}.")):
        assert token_f1(one, expected=other) < 1


@pytest.mark.parametrize(("said", "right"), SAME)
def test_punctuation_and_spelling_of_any_script_do_not_count(said, right):
    assert token_f1(said, expected=right) == token_f1(right, expected=said) == 1
    assert rouge_l(said, expected=right) == rouge_l(right, expected=said) == 1


def test_equal_texts_score_one():
    for text in [
        *(word for pair in (*DIFFERENT, *DIFFERENT_WORDS_ALONE, *SAME) for word in pair),
        "...",
        "。",
        "<",
        "~",
        "\ue000",
    ]:
        assert token_f1(text, expected=text) == rouge_l(text, expected=text) == 1


def test_scripts_without_spaces_count_letters_with_their_marks():
    assert squad_words("红色的ボール") == rouge_words("红色的ボール") == ["红", "色", "的", "ボ", "ー", "ル"]
    assert squad_words("ดีมาก") == rouge_words("ดีมาก") == ["ดี", "ม", "า", "ก"]
    assert rouge_words("red红blue") == ["red", "红", "blue"]
    assert squad_words("लाल गेंद") == rouge_words("लाल गेंद") == ["लाल", "गेंद"]
    assert squad_words("🔴🔵 🔴") == rouge_words("🔴🔵 🔴") == ["🔴", "🔵", "🔴"]


ENGLISH = """
a the red RED cube it's don't man, then! left-hand x_y (so) 3 10 2nd 3.5 covid-19 B. end... 'quoted' page-3 1,000 5%
"""


def english(chance: random.Random) -> str:
    return " ".join(chance.choice(ENGLISH.split()) for _ in range(chance.randrange(1, 12)))


def test_plain_english_scores_as_the_libraries_score_it():
    """Against rouge-score itself, and against the rule of the SQuAD script; numbers with a point only against the former."""
    from rouge_score.rouge_scorer import RougeScorer

    def squad_f1(said: str, right: str) -> float:
        def normal(text: str) -> list[str]:
            bare = "".join(letter for letter in text.lower() if letter not in string.punctuation)
            return [word for word in bare.split() if word not in ("a", "an", "the")]

        common = sum((Counter(normal(said)) & Counter(normal(right))).values())
        if not common:
            return 0.0
        precision, recall = common / len(normal(said)), common / len(normal(right))
        return 2 * precision * recall / (precision + recall)

    library, chance = RougeScorer(["rougeL"]), random.Random(0)
    num_compared = 0
    for _ in range(2000):
        said, right = english(chance), english(chance)
        assert rouge_l(said, expected=right) == library.score(right, said)["rougeL"].fmeasure, (said, right)
        if "3.5" not in said + right and any(word not in ("a", "the") for word in right.split()):
            assert token_f1(said, expected=right) == pytest.approx(squad_f1(said, right)), (said, right)
            num_compared += 1
    assert num_compared > 500


def test_any_text_is_cut_without_an_error():
    chance = random.Random(1)
    for _ in range(500):
        text = "".join(
            chr(chance.choice((chance.randrange(0x3000), chance.randrange(0x1F000, 0x1FAFF)))) for _ in range(20)
        )
        assert token_f1(text, expected=text + " x") <= 1
        assert rouge_l(text, expected=text + " x") <= 1
