"""Multiple choice: which of the options that a question lists an answer picks.

Nothing that can be read, or several options at once, is a wrong answer; it is never guessed and never left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from cvft.data.numerals import fold

_MARK = r"[.):、\uff1a．\uff09]"
_BREAK = r"[\s;,:?!\uff1b\uff0c、。\uff1a\uff1f\uff01]"
"""What may stand before an option: Chinese writes no space between `？` and `A.`."""
_OPTION = re.compile(
    rf"(?:^|(?<={_BREAK}))[(\uff08]?([A-Z]){_MARK}\s*(\S.*?)(?=\s*(?:$|\n|{_BREAK}\s*[(\uff08]?[A-Z]{_MARK}\s*\S))",
    re.M,
)
_LETTER_ALONE = re.compile(r"\W*([A-Za-z])\W*")
_LETTER_FIRST = re.compile(rf"\s*(?:[*_`]+)?(?:[(\uff08]([A-Za-z])[)\uff09]|\[([A-Za-z])\]|([A-Z]){_MARK}(?!\w\.))")
_SAID = re.compile(
    r"(?:(?:answer|choice|option)s?\s*(?:is|:|=)?\s*(?:option\s*)?|选项?择?|答案(?:是|为)?\s*[:：]?\s*)"
    r"[\s(\[*:：]*([A-Z])(?![A-Za-z])",
    re.I,
)
_STANDING = re.compile(r"(?<![A-Za-z'’])(?:\(([A-Z])\)|([B-HJ-Z])|(A)(?=\s*(?:$|[.,;/&]|(?:or|and)\b)))(?![A-Za-z'’])")


def find_options(question: str) -> dict[str, str]:
    """Returns the options that a question lists: letter -> text, or nothing.

    Two at least, named A, B, C, ... in order, each written as `A. text`, `A) text`, `(A) text` or `A: text`.

    Example:
        >>> find_options("What is red? A. the ball B. the car (C) nothing")
        {'A': 'the ball', 'B': 'the car', 'C': 'nothing'}
    """
    options: dict[str, str] = {}
    for letter, text in _OPTION.findall(question):
        if letter == chr(ord("A") + len(options)):
            options[letter] = text.strip()
    return options if len(options) > 1 else {}


def read_choice(answer: str, *, options: Mapping[str, str]) -> str | None:
    """Returns the letter of the option that an answer picks.

    In this order: a letter alone; the text of an option, word for word; a letter that is announced (`the answer is B`, `选B`),
    one in front (`B.`, `(B) the car`), the only one that stands anywhere; the only option whose text occurs. A letter beside the
    text of another option picks nothing.

    Args:
        answer: What was said.
        options: As `find_options` returns them.

    Returns:
        The letter, or None.

    Example:
        >>> options = {"A": "a dog", "B": "a cat"}
        >>> [read_choice(said, options=options) for said in ("b", "(B) a cat", "a dog", "选B", "A or B", "B. a dog", "")]
        ['B', 'B', 'A', 'B', None, None, None]
    """
    alone = _LETTER_ALONE.fullmatch(answer)
    if alone:
        return _known(alone.group(1), options)
    texts = {letter: _words(text) for letter, text in options.items()}
    said = _words(answer)
    equal = [letter for letter, text in texts.items() if text and text == said]
    if len(equal) == 1:
        return equal[0]
    within = _occurring(said, texts)
    letters = {_known(letter, options) for letter in _named(answer)} - {None}
    if len(letters) == 1:
        (letter,) = letters
        return letter if not within or letter in within else None
    if not letters and len(within) == 1:
        return within[0]
    return None


def _named(answer: str) -> list[str]:
    """Letters that the answer names; what is announced or in front counts more than what merely stands there."""
    announced = _SAID.findall(answer)
    front = [letter for groups in [_LETTER_FIRST.match(answer)] if groups for letter in groups.groups() if letter]
    return announced or front or [letter for found in _STANDING.findall(answer) for letter in found if letter]


def _occurring(said: str, texts: Mapping[str, str]) -> list[str]:
    """Options whose text occurs; one that lies inside another that occurs (`a car`, `a red car`) does not count."""
    found = [letter for letter, text in texts.items() if text and f" {text} " in f" {said} "]
    return [
        letter
        for letter in found
        if not any(other != letter and f" {texts[letter]} " in f" {texts[other]} " for other in found)
    ]


def _known(letter: str, options: Mapping[str, str]) -> str | None:
    return letter.upper() if letter.upper() in options else None


def _words(text: str) -> str:
    """Lower-case words with single spaces; each CJK character stands alone."""
    return " ".join(re.findall(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_]+", fold(text)))
