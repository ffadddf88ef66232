"""Scores of whole sentences over a set of rows: BLEU and chrF by sacrebleu, CIDEr-D.

They belong to a set of rows, not to one: the weights of CIDEr come from all right answers, so that its numbers say nothing beside
those of another val set.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from cvft.evaluate.metrics.words import rouge_words

MIN_MEAN_WORDS = 4
"""Mean length of the right answers in words from which these scores mean something: BLEU counts runs of four words, and gives 0
to a right answer of one."""

_MAX_NGRAM = 4
_SIGMA = 6.0
_SCALE = 10.0
_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")


def score_captions(predictions: Sequence[str], *, expected: Sequence[str]) -> dict[str, Any] | None:
    """Scores sentences.

    Args:
        predictions: One answer per row; an empty one counts.
        expected: The right answer of each row.

    Returns:
        `bleu` and `chrf` from 0 to 100 with the signatures that sacrebleu states for them, and `cider_d` from 0 to 10, None where
        the rows have fewer than two different right answers. None for answers shorter than `MIN_MEAN_WORDS` on average.
    """
    words = [rouge_words(right) for right in expected]
    if not expected or sum(map(len, words)) < MIN_MEAN_WORDS * len(expected):
        return None
    # Imported here: reading metrics needs no such package.
    from sacrebleu.metrics import BLEU, CHRF

    num_cjk = sum(1 for right in words for word in right if _CJK.match(word))
    bleu = BLEU(tokenize="zh" if 2 * num_cjk > sum(map(len, words)) else "13a")
    chrf = CHRF()
    references = [list(expected)]
    return {
        "bleu": bleu.corpus_score(list(predictions), references).score,
        "bleu_signature": str(bleu.get_signature()),
        "chrf": chrf.corpus_score(list(predictions), references).score,
        "chrf_signature": str(chrf.get_signature()),
        "cider_d": cider_d([rouge_words(said) for said in predictions], expected=words),
    }


def cider_d(predictions: Sequence[Sequence[str]], *, expected: Sequence[Sequence[str]]) -> float | None:
    """Returns CIDEr-D over rows of one right answer each.

    Runs of one to four words are weighed by how few right answers hold them; the score is the clipped cosine of the weights,
    averaged over the four lengths, times a penalty for another length, times ten.

    Args:
        predictions: The words of each answer.
        expected: The words of each right answer.

    Returns:
        The mean over the rows, from 0 to 10. None with fewer than two different right answers: every weight is 0 there.

    Source: Vedantam et al., "CIDEr: Consensus-based Image Description Evaluation" (2015), section 5, with the constants of the
    published COCO evaluation, which takes the number of word pairs for the length. Tests hold it to that code's numbers.
    """
    if len({tuple(words) for words in expected}) < 2:
        return None
    rights = [_count_ngrams(words) for words in expected]
    num_holding: Counter[tuple[str, ...]] = Counter(ngram for counts in rights for ngram in counts)
    log_rows = math.log(len(expected))

    def weigh(counts: Counter[tuple[str, ...]]) -> dict[tuple[str, ...], float]:
        return {ngram: count * (log_rows - math.log(max(1, num_holding[ngram]))) for ngram, count in counts.items()}

    total = 0.0
    for words, right in zip(predictions, rights, strict=True):
        said = _count_ngrams(words)
        gap = _num_pairs(said) - _num_pairs(right)
        penalty = math.exp(-(gap**2) / (2 * _SIGMA**2))
        said_weights, right_weights = weigh(said), weigh(right)
        total += penalty * sum(_cosine(said_weights, right_weights, length) for length in range(1, _MAX_NGRAM + 1))
    return _SCALE * total / _MAX_NGRAM / len(expected)


def _count_ngrams(words: Sequence[str]) -> Counter[tuple[str, ...]]:
    return Counter(
        tuple(words[start : start + length])
        for length in range(1, _MAX_NGRAM + 1)
        for start in range(len(words) - length + 1)
    )


def _num_pairs(counts: Counter[tuple[str, ...]]) -> int:
    return sum(count for ngram, count in counts.items() if len(ngram) == 2)


def _cosine(said: dict[tuple[str, ...], float], right: dict[tuple[str, ...], float], length: int) -> float:
    """The cosine of the runs of one length, where an answer gains nothing by saying a run more often than is right."""
    common = sum(
        min(weight, right.get(ngram, 0.0)) * right.get(ngram, 0.0)
        for ngram, weight in said.items()
        if len(ngram) == length
    )
    norms = [
        math.sqrt(sum(weight**2 for ngram, weight in side.items() if len(ngram) == length)) for side in (said, right)
    ]
    return common / (norms[0] * norms[1]) if all(norms) else common
