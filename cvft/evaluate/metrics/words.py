r"""Cuts answers into words, in any script, for metrics that count words in common.

A word is letters and digits with their marks: vowel signs, accents, tones. In scripts without spaces each letter with its marks
counts, and each emoji counts. Unicode decides what is what, by the `regex` package.

Plain English is cut as the published metrics cut it. They would take different answers for the same elsewhere, so numbers keep
their sign, point and colon (`-3`, `3.5`, `10:30`), and letters what makes them another name (`C++`, `C#`, `A-`).
"""

from __future__ import annotations

import string
import unicodedata

import regex

_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}\u30fc"
"""Scripts that are written without spaces between words, and the Japanese sign for a long vowel."""

_LETTER_WITHOUT_SPACES = rf"[{_UNSPACED}&&[\p{{L}}\p{{N}}]]\p{{M}}*"
_EMOJI = r"\p{RI}\p{RI}|\p{Extended_Pictographic}\p{EMod}?(?:\u200d\p{Extended_Pictographic}\p{EMod}?)*"
_OTHER_SYMBOL = r"[\p{S}--[\x00-\x7f]]\p{M}*"

_SIGN = r"(?<![\p{L}\p{N}])-(?=[$€£¥]?\.?\d)"
"""A minus before a number; a hyphen in or after a word is none."""

_NAME_ENDING = r"(?<=\p{L})(?:\+\+?|[#])(?![\p{L}\p{N}])"
"""What tells C, C++ and C# apart."""

_LETTER = rf"[[\p{{L}}\p{{N}}\p{{M}}]--[{_UNSPACED}]]"
_NEXT_LETTER = rf"[[\p{{L}}\p{{N}}\p{{M}}\u200c\u200d]--[{_UNSPACED}]]"

_ROUGE_WORD = regex.compile(
    rf"{_LETTER_WITHOUT_SPACES}|(?:{_SIGN}[$€£¥]?\.?)?{_LETTER}{_NEXT_LETTER}*(?:{_NAME_ENDING})?|{_EMOJI}|{_OTHER_SYMBOL}",
    regex.VERSION1,
)

_SQUAD_WORD = regex.compile(
    rf"{_LETTER_WITHOUT_SPACES}|{_EMOJI}|[^\s{_UNSPACED}\p{{Extended_Pictographic}}\p{{RI}}]+", regex.VERSION1
)

_KEPT_OR_PUNCTUATION = regex.compile(
    rf"""
      (?P<kept>
          {_SIGN}
        | (?<=\d)(?:[.:/\-\u066b]|,(?!\d\d\d(?!\d)))(?=\d)    # 3.5, 10:30, 1/2, 3-5, 3,5; but 1,000 is 1000
        | (?<![\p{{L}}\p{{N}}])\.(?=\d)                       # .5
        | {_NAME_ENDING}
        | (?<=(?<!\S)\p{{L}})-(?!\S)                          # the grade A-
        | (?<!\S)[<>=+]+(?!\S)
      )
    | [\p{{P}}{regex.escape(string.punctuation)}]
    """,
    regex.VERBOSE | regex.VERSION1,
)

_DASHES = regex.compile(r"[\p{Pd}\u2212]")
_WORD_BREAKS = regex.compile(r"\u200b|(?<!\d)[\u2014\u2015]|[\u2014\u2015](?!\d)")
"""Space of no width, and long dashes, except between numbers."""

_INVISIBLE = regex.compile(r"[\ufe0e\ufe0f]|[\p{Cf}--[\u200c\u200d]]", regex.VERSION1)
"""How a sign is to be shown, and in which direction; what joins letters or emoji counts."""


def rouge_words(text: str) -> list[str]:
    """Cuts text as the rouge-score package cuts English, which drops every letter outside a to z.

    Args:
        text: An answer.

    Returns:
        Words in lower case.

    Example:
        >>> rouge_words("It's RED-blue: -3.5 °C in C++")
        ['it', 's', 'red', 'blue', '-3', '5', '°', 'c', 'in', 'c++']
    """
    return [match[0] for match in _ROUGE_WORD.finditer(_clean(text))]


def squad_words(text: str) -> list[str]:
    """Cuts text as the evaluation script of SQuAD v1.1 does, articles included: at spaces, without punctuation.

    Args:
        text: An answer.

    Returns:
        Words in lower case.

    Example:
        >>> squad_words("“It’s red-blue”: -3.5 °C, at 10:30.")
        ['its', 'redblue', '-3.5', '°c', 'at', '10:30']
    """
    bare = _KEPT_OR_PUNCTUATION.sub(lambda match: match["kept"] or "", _clean(text))
    return [match[0] for match in _SQUAD_WORD.finditer(bare)]


def _clean(text: str) -> str:
    composed = unicodedata.normalize("NFC", text).lower()
    cleaned: str = _DASHES.sub("-", _INVISIBLE.sub("", _WORD_BREAKS.sub(" ", composed)))
    return cleaned
