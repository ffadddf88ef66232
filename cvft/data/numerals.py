"""Numbers as people write them: digits, English number words, Chinese numerals."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

_ONES = (
    *(
        "zero",
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "ten",
        "eleven",
        "twelve",
        "thirteen",
    ),
    *("fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
ENGLISH = {word: number for number, word in enumerate(_ONES)} | {word: 20 + 10 * i for i, word in enumerate(_TENS)}
"""Value of each English number word below a hundred."""

CHINESE_DIGITS = {digit: number for number, digit in enumerate("零一二三四五六七八九")} | {"〇": 0, "两": 2}
"""Value of each Chinese digit."""
_CHINESE_UNITS = {"十": 10, "百": 100, "千": 1000}
CHINESE = "".join(CHINESE_DIGITS) + "".join(_CHINESE_UNITS)
"""Every character that a Chinese number below ten thousand is written with."""

_DIGITS = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:[.,]\d+)?|\.\d+", re.ASCII)


def fold(text: str) -> str:
    """Returns the text in lower case with full-width digits, letters and signs as ASCII (Unicode NFKC)."""
    return unicodedata.normalize("NFKC", text).lower()


def read_digits(text: str) -> float | None:
    """Returns the value of a number in digits, or None.

    A comma before exactly three digits groups thousands; any other is a decimal comma.

    Example:
        >>> read_digits("1,000"), read_digits("3,5"), read_digits("12.25"), read_digits("x")
        (1000.0, 3.5, 12.25, None)
    """
    if not _DIGITS.fullmatch(text):
        return None
    is_grouped = re.fullmatch(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?", text)
    return float(text.replace(",", "") if is_grouped else text.replace(",", "."))


def read_english(words: Sequence[str]) -> tuple[int, int] | None:
    """Reads a number in words from the start of a list of words in lower case.

    Returns:
        The value below a thousand and how many words were read, or None.

    Example:
        >>> read_english(["twenty", "-", "five", "dogs"]), read_english(["two", "hundred", "and", "six"])
        ((25, 3), (206, 4))
    """
    if not words or words[0] not in ENGLISH:
        return None
    value, used = ENGLISH[words[0]], 1
    if value >= 20:
        gap = 1 if list(words[1:2]) == ["-"] else 0
        digit = ENGLISH.get(words[1 + gap]) if len(words) > 1 + gap else None
        if digit is not None and 0 < digit < 10:
            value, used = value + digit, 2 + gap
    elif value and list(words[1:2]) == ["hundred"]:
        value, used = value * 100, 2
        gap = 1 if list(words[2:3]) == ["and"] else 0
        rest = read_english(words[2 + gap :])
        if rest is not None and rest[0] < 100:
            value, used = value + rest[0], 2 + gap + rest[1]
    return value, used


def read_chinese(text: str) -> int | None:
    """Returns the value of a Chinese number below ten thousand, or None.

    Example:
        >>> read_chinese("十二"), read_chinese("两百零三"), read_chinese("二五"), read_chinese("点")
        (12, 203, 25, None)
    """
    if not text or any(character not in CHINESE for character in text):
        return None
    if not any(character in _CHINESE_UNITS for character in text):  # digit by digit: 二五 is 25
        return int("".join(str(CHINESE_DIGITS[character]) for character in text))
    total, digit = 0, None
    for character in text:
        if character in _CHINESE_UNITS:
            total += (1 if digit is None else digit) * _CHINESE_UNITS[character]
            digit = None
        else:
            digit = CHINESE_DIGITS[character]
    return total + (digit or 0)
