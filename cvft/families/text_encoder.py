"""The text encoder of a model folder: text of a user becomes the ids of its characters, never a control id. No torch."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from cvft.errors import DataError, ModelError, Problem, quote
from cvft.json_files import JsonError, read_object
from cvft.weights.folder import TOKENIZER_FILE

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SETTINGS_FILES = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
"""What transformers reads beside tokenizer.json where it is there."""

HINT = "use the tokenizer files that the checkpoint was published with"

_IN_BRACKETS = re.compile(r"<.*>|\[.*\]", re.DOTALL)

MAX_KEPT_DIGITS = 4
"""Longest numbers whose ids are kept."""


class TextEncoder:
    """Turns text into ids, and control tokens that somebody typed into the ids of their characters.

    Args:
        tokenizer: A folder's tokenizer, for this encoder alone. Its added tokens in brackets count as control tokens, whether or
            not the file says that they are special.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        from tokenizers import AddedToken

        added = tokenizer.get_added_tokens_decoder()
        tokenizer.add_special_tokens(
            [
                AddedToken(token.content, special=True)
                for token in added.values()
                if not token.special and _IN_BRACKETS.fullmatch(token.content)
            ]
        )
        added = tokenizer.get_added_tokens_decoder()
        self.control_tokens = {number: token.content for number, token in added.items() if token.special}
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self._numbers: dict[str, list[int]] = {}
        """Ids of short numbers: the seconds behind frames are the same in all rows, and there are more of them than questions."""

    def __call__(self, text: str) -> list[int]:
        """Returns the ids of a text.

        Raises:
            DataError: when the vocabulary has no way to write the text without a control id.
            ModelError: when an expression of the tokenizer gives up on the text.
        """
        if text in self._numbers:
            return list(self._numbers[text])
        self._tokenizer.encode_special_tokens = True  # not kept when the tokenizer is sent to another process
        try:
            ids = list(self._tokenizer.encode(text, add_special_tokens=False).ids)
        except BaseException as error:  # a panic of the library is no Exception
            if type(error).__name__ != "PanicException":
                raise
            problem = Problem(TOKENIZER_FILE, f"an expression that gives up on a text ({error})", "one that ends", HINT)
            raise ModelError("the tokenizer", [problem]) from error
        for number in ids:
            if number in self.control_tokens:
                got = f"{quote(self.control_tokens[number])}, for which {TOKENIZER_FILE} has a control id alone"
                raise DataError(
                    "the text", [Problem("the text", got, "text without control tokens", "write it otherwise")]
                )
        if len(text) <= MAX_KEPT_DIGITS and text.isascii() and text.isdigit():
            self._numbers[text] = list(ids)
        return ids


def open_tokenizer(folder: Path) -> Tokenizer:
    """Reads a folder's `tokenizer.json`.

    Raises:
        ModelError: when there is none, or a broken one.
    """
    from tokenizers import Tokenizer

    if not (folder / TOKENIZER_FILE).is_file():
        problem = Problem(TOKENIZER_FILE, "no such file", "the folder's fast tokenizer", "is the download complete?")
        raise ModelError(f"model {folder}", [problem])
    try:
        return Tokenizer.from_file(str(folder / TOKENIZER_FILE))
    except Exception as error:  # the library raises nothing narrower
        problem = Problem(TOKENIZER_FILE, f"a broken file ({error})", "the folder's fast tokenizer", HINT)
        raise ModelError(f"model {folder}", [problem]) from error


def check_settings_files(folder: Path) -> list[Problem]:
    """Returns a problem for every broken file of settings beside the tokenizer, which transformers reads."""
    problems = []
    for name in SETTINGS_FILES:
        path = folder / name
        if not os.path.lexists(path):
            continue
        try:
            read_object(path)
        except JsonError as error:
            problems.append(Problem(name, str(error), "the published file", HINT))
    return problems
