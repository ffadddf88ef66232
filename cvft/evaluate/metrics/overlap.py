"""What an answer has in common with the right one: exact match, token F1 and ROUGE-L of one row.

The rules, so that a number can be read without the code:

* `exact_match`: equal after Unicode NFC and collapsing white space; case and punctuation count.
* `token_f1`: SQuAD's: lower case, no punctuation, no articles; the harmonic mean of precision and recall of the words.
* `rouge_l`: F-measure of the longest common subsequence of words, by the `rouge-score` package without stemming.

What a word is, in any script, says `cvft.evaluate.metrics.words`. An exact match scores 1 in all of them, also where it has no
words.
"""

from __future__ import annotations

import unicodedata
from collections import Counter

from cvft.evaluate.metrics.words import rouge_words, squad_words

_ARTICLES = frozenset(("a", "an", "the"))


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
    return RougeL().score(prediction, expected=expected)


class RougeL:
    """Scores ROUGE-L; made once, because making it loads what it needs."""

    def __init__(self) -> None:
        # Imported here: the package loads numpy and nltk, which whoever only wants the rules does not need.
        from rouge_score.rouge_scorer import RougeScorer

        self._scorer = RougeScorer(["rougeL"], tokenizer=_Words())

    def score(self, prediction: str, *, expected: str) -> float:
        """Returns the F-measure of one answer."""
        if is_exact_match(prediction, expected=expected):
            return 1.0
        return float(self._scorer.score(expected, prediction)["rougeL"].fmeasure)


class _Words:
    """What rouge-score asks for words."""

    def tokenize(self, text: str) -> list[str]:
        return rouge_words(text)


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())
