"""Predictions and expected answers -> exact match, token F1 and ROUGE-L, over all rows and per category.

Every row counts: an empty prediction scores 0 and is never dropped, and each number is the mean over all rows.
The rules, so that a number can be read without the code:

* `exact_match`: equal after Unicode NFC and collapsing white space; case and punctuation count.
* `token_f1`: SQuAD's: lower case, no punctuation, no articles; the harmonic mean of precision and recall of the words.
* `rouge_l`: F-measure of the longest common subsequence of words, by the `rouge-score` package without stemming.

What a word is, in any script, says `cvft.evaluate.words`. An exact match scores 1 in all of them, also where it has no words.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Any

from cvft.evaluate.words import rouge_words, squad_words

METRIC_NAMES: tuple[str, ...] = ("exact_match", "token_f1", "rouge_l")
"""The metrics of one row, each from 0 to 1."""

_ARTICLES = frozenset(("a", "an", "the"))


def compute_metrics(
    predictions: Sequence[str], *, expected: Sequence[str], categories: Sequence[str | None] | None = None
) -> dict[str, Any]:
    """Scores all rows.

    Args:
        predictions: One answer per row; an empty one counts as wrong.
        expected: The right answer of each row.
        categories: The kind of question (category) of each row, or None where a row has none.

    Returns:
        `num_rows` and the mean of each metric; with categories, also `categories`: the same per category, in order of name.
        Without rows the means are None, for no number would be true.
    """
    assert len(predictions) == len(expected), "one prediction per row"
    scores = score_rows(predictions, expected=expected)
    result = _means(scores)
    if categories is not None and any(categories):
        assert len(categories) == len(predictions), "one category per row"
        groups: dict[str, list[dict[str, float]]] = {}
        for category, score in zip(categories, scores, strict=True):
            if category:
                groups.setdefault(category, []).append(score)
        result["categories"] = {category: _means(groups[category]) for category in sorted(groups)}
    return result


def score_rows(predictions: Sequence[str], *, expected: Sequence[str]) -> list[dict[str, float]]:
    """Scores each row by itself, in order."""
    rouge = _RougeL()
    return [
        {
            "exact_match": float(is_exact_match(prediction, expected=right)),
            "token_f1": token_f1(prediction, expected=right),
            "rouge_l": rouge.score(prediction, expected=right),
        }
        for prediction, right in zip(predictions, expected, strict=True)
    ]


def is_exact_match(prediction: str, *, expected: str) -> bool:
    """Says whether the answer is right to the letter; see the module's rule."""
    said = _plain(prediction)
    return bool(said) and said == _plain(expected)


def token_f1(prediction: str, *, expected: str) -> float:
    """Returns the F1 of the words of the answer against the words expected.

    Articles are dropped as in SQuAD, unless nothing else was expected: the answer `A` to a choice is not an article.

    Source: the SQuAD v1.1 evaluation script, `normalize_answer` and `f1_score`.

    Example:
        >>> token_f1("a red car", expected="The red cube.")
        0.5
        >>> token_f1("", expected="A")
        0.0
    """
    if is_exact_match(prediction, expected=expected):
        return 1.0
    said, right = squad_words(prediction), squad_words(expected)
    without = [word for word in right if word not in _ARTICLES]
    if without:
        said, right = [word for word in said if word not in _ARTICLES], without
    common = sum((Counter(said) & Counter(right)).values())
    if common == 0:
        return 0.0
    precision, recall = common / len(said), common / len(right)
    return 2 * precision * recall / (precision + recall)


def rouge_l(prediction: str, *, expected: str) -> float:
    """Returns the ROUGE-L F-measure of one answer."""
    return _RougeL().score(prediction, expected=expected)


class _RougeL:
    def __init__(self) -> None:
        # Imported here: the package loads numpy and nltk, which whoever only wants the rules does not need.
        from rouge_score.rouge_scorer import RougeScorer

        self._scorer = RougeScorer(["rougeL"], tokenizer=_Words())

    def score(self, prediction: str, *, expected: str) -> float:
        if is_exact_match(prediction, expected=expected):
            return 1.0
        return float(self._scorer.score(expected, prediction)["rougeL"].fmeasure)


class _Words:
    """What rouge-score asks for words."""

    def tokenize(self, text: str) -> list[str]:
        return rouge_words(text)


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())


def _means(scores: Sequence[dict[str, float]]) -> dict[str, Any]:
    count = len(scores)
    means = {name: sum(score[name] for score in scores) / count if count else None for name in METRIC_NAMES}
    return {"num_rows": count, **means}
