"""The text encoder of a model folder: text of a user becomes the ids of its characters, never a control id. No torch."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from cvft.errors import DataError, ModelError, Problem, quote
from cvft.json_files import JsonError, read_object
from cvft.weights.folder import TOKENIZER_FILE, ModelFolder

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SETTINGS_FILES = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
"""What transformers reads beside tokenizer.json where it is there."""

HINT = "use the tokenizer files that the checkpoint was published with"

_IN_BRACKETS = re.compile(r"<.*>|\[.*\]", re.DOTALL)


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

    def __call__(self, text: str) -> list[int]:
        """Returns the ids of a text.

        Raises:
            DataError: when the vocabulary has no way to write the text without a control id.
            ModelError: when an expression of the tokenizer gives up on the text.
        """
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
        return ids


def load_encoder(model: ModelFolder | Path) -> TextEncoder:
    """Returns the folder's text encoder alone, without transformers.

    Args:
        model: Folder with `tokenizer.json`.

    Raises:
        ModelError: when there is no tokenizer, or when it is not the one that the folder's config.json speaks of.
    """
    from tokenizers import Tokenizer

    folder = model.path if isinstance(model, ModelFolder) else model
    if not (folder / TOKENIZER_FILE).is_file():
        problem = Problem(TOKENIZER_FILE, "no such file", "the folder's fast tokenizer", "is the download complete?")
        raise ModelError(f"model {folder}", [problem])
    try:
        tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_FILE))
    except Exception as error:  # the library raises nothing narrower
        problem = Problem(TOKENIZER_FILE, f"a broken file ({error})", "the folder's fast tokenizer", HINT)
        raise ModelError(f"model {folder}", [problem]) from error
    _check_ids(tokenizer, ModelFolder.of(model))
    return TextEncoder(tokenizer)


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


def _check_ids(tokenizer: Tokenizer, model: ModelFolder) -> None:
    config = model.config
    special = {number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    problems = [
        Problem(f"config.json: {key}", quote(config.get(key)), f"the id of a special token of {TOKENIZER_FILE}", HINT)
        for key in ("bos_token_id", "eos_token_id", "pad_token_id")
        if config.get(key) not in special
    ]
    num_ids = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    if num_ids > config["vocab_size"]:
        need = f"at most {config['vocab_size']}, by config.json"
        problems.append(Problem(TOKENIZER_FILE, f"{num_ids} tokens", need, HINT))
    if problems:
        raise ModelError(f"model {model.path}", problems)


def encode_time_index(encode: Callable[[str], list[int]], index: int) -> list[int]:
    """Encodes the number after a frame.

    Args:
        encode: The text encoder.
        index: The number.

    Raises:
        ModelError: when it is cut, and it is one that the published sampling shows: this is the tokenizer of another model.
    """
    ids = encode(str(index))
    if len(ids) != 1 and index <= LAST_PUBLISHED_INDEX:
        need = f"one token for each integer 0..{LAST_PUBLISHED_INDEX}: they are the time indices"
        raise ModelError("the tokenizer", [Problem(TOKENIZER_FILE, f"{quote(index)} in {len(ids)} tokens", need, HINT)])
    return ids


LAST_PUBLISHED_INDEX = 23
"""The published sampling shows at most seconds 0 to 23, each one token. Later seconds may take several."""
