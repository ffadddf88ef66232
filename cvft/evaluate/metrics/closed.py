"""Answers of few possible values: yes or no, a number, one of a closed set of labels."""

from __future__ import annotations

import re
from collections.abc import Sequence

from cvft.data.numerals import CHINESE, ENGLISH, fold, read_chinese, read_digits, read_english

_YES = frozenset(("yes", "yeah", "yep", "是", "是的", "对", "有", "会", "能"))
_NO = frozenset(("no", "nope", "not", "never", "否", "不是", "不", "不对", "没有", "没", "不会", "不能"))
_YES_NO_WORD = re.compile(r"不是|不对|不会|不能|没有|是的|[是对有会能否不没]|[a-z]+(?:['’]t)?")
_NUMBER_PART = re.compile(rf"-?(?:\d[\d,]*(?:\.\d+)?|\.\d+)|[{CHINESE}]+|[a-z]+|-|\S", re.ASCII)

MAX_LABELS = 20
"""Most different answers of a category that are taken for a closed set."""

MIN_ROWS_PER_LABEL = 3
"""Rows that each label of a closed set has on average, at least; below it the answers are taken for free text."""

MAX_LABEL_WORDS = 4
"""Longest label in words."""

OTHER = "(other)"
"""How an answer outside the closed set is counted."""


def read_yes_no(answer: str) -> bool | None:
    """Returns True for yes, False for no, None for anything else or both.

    A word of either kind in front decides; else the only kind that occurs. `yes and no` is neither.

    Example:
        >>> [read_yes_no(said) for said in ("Yes.", "No, it is not red.", "是的", "It is.", "yes and no")]
        [True, False, True, None, None]
    """
    words = _YES_NO_WORD.findall(fold(answer))
    kinds = [
        True if word in _YES else False if word in _NO or word.endswith(("n't", "n’t")) else None for word in words
    ]
    if not kinds:
        return None
    if kinds[0] is not None:
        is_both = len(words) > 2 and words[1] in ("and", "or") and kinds[2] is not None and kinds[2] != kinds[0]
        return None if is_both else kinds[0]
    found = {kind for kind in kinds if kind is not None}
    return found.pop() if len(found) == 1 else None


def is_yes_no(answer: str) -> bool:
    """Says whether an answer is yes or no and nothing else."""
    words = _YES_NO_WORD.findall(fold(answer))
    rest = re.sub(r"\W+", "", _YES_NO_WORD.sub("", fold(answer)))
    return len(words) == 1 and not rest and words[0] in _YES | _NO and words[0] not in ("not", "never")


def read_number(answer: str) -> float | None:
    """Returns the only number that an answer names, in digits or words; None for none or several.

    Example:
        >>> [read_number(said) for said in ("two", "There are 2 cars.", "-3.5", "twenty-five", "三", "2 or 3", "none")]
        [2.0, 2.0, -3.5, 25.0, 3.0, None, None]
    """
    numbers = _numbers(answer)
    return numbers[0] if len(set(numbers)) == 1 else None


def is_number(answer: str) -> bool:
    """Says whether an answer is a number and nothing else."""
    text = answer.strip().rstrip(".。")
    parts = _NUMBER_PART.findall(fold(text))
    said = read_english(parts)
    if said is not None:
        return said[1] == len(parts)
    return len(parts) == 1 and (_value(parts[0]) is not None)


def _numbers(answer: str) -> list[float]:
    parts = _NUMBER_PART.findall(fold(answer))
    found: list[float] = []
    index = 0
    while index < len(parts):
        said = read_english(parts[index : index + 8]) if parts[index] in ENGLISH else None
        if said is not None:
            found.append(float(said[0]))
            index += said[1]
            continue
        value = _value(parts[index])
        if value is not None:
            found.append(value)
        index += 1
    return found


def _value(part: str) -> float | None:
    sign = -1.0 if part.startswith("-") else 1.0
    digits = part.removeprefix("-").rstrip(",")
    value = read_digits(digits)
    if value is None and (chinese := read_chinese(part)) is not None:
        value = float(chinese)
    return None if value is None else sign * value


def closed_set(expected: Sequence[str]) -> list[str] | None:
    """Returns the labels that a category's right answers are taken from, most frequent first, or None for free text.

    Two to `MAX_LABELS` different short answers, each given `MIN_ROWS_PER_LABEL` times on average; case, punctuation and
    white space do not make a difference.
    """
    counts: dict[str, int] = {}
    for answer in expected:
        label = plain_label(answer)
        if not label or len(label.split()) > MAX_LABEL_WORDS:
            return None
        counts[label] = counts.get(label, 0) + 1
    if not 2 <= len(counts) <= MAX_LABELS or len(expected) < MIN_ROWS_PER_LABEL * len(counts):
        return None
    return sorted(counts, key=lambda label: (-counts[label], label))


def plain_label(answer: str) -> str:
    """Returns an answer as a label: lower case, single spaces, no punctuation around it."""
    return " ".join(re.sub(r"^[\W_]+|[\W_]+$", "", fold(answer)).split())


def read_label(answer: str, *, labels: Sequence[str]) -> str:
    """Returns the label that an answer gives, or `OTHER`: the label itself, or the only one that occurs in it as words."""
    said = plain_label(answer)
    if said in labels:
        return said
    found = [label for label in labels if re.search(rf"(?<!\w){re.escape(label)}(?!\w)", said)]
    found = [label for label in found if not any(label != other and label in other for other in found)]
    return found[0] if len(found) == 1 else OTHER


def macro_f1(said: Sequence[str], *, right: Sequence[str], labels: Sequence[str]) -> float:
    """Returns the mean F1 over the labels, each as much as any other; a label that is never hit has an F1 of 0."""
    scores = []
    for label in labels:
        hits = sum(1 for one, other in zip(said, right, strict=True) if one == other == label)
        total = sum(1 for one in said if one == label) + sum(1 for one in right if one == label)
        scores.append(2 * hits / total if total else 0.0)
    return sum(scores) / len(scores)


def confusion(said: Sequence[str], *, right: Sequence[str], labels: Sequence[str]) -> list[list[int]]:
    """Counts, for each label that was right (row), how often each label and `OTHER` (column) was said."""
    columns = [*labels, OTHER]
    pairs = list(zip(right, said, strict=True))
    return [[sum(1 for pair in pairs if pair == (row, column)) for column in columns] for row in labels]
