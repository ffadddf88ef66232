"""The text encoder of a model folder, checked so that digits stay whole: time indices are digits. No torch."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from cvft.errors import ModelError, Problem, quote
from cvft.json_files import JsonError, read_object
from cvft.weights.folder import TOKENIZER_FILE, ModelFolder

if TYPE_CHECKING:
    from tokenizers import Tokenizer

NUM_CHECKED_INTEGERS = 24
"""Time indices that must be single tokens: the published sampling shows at most seconds 0 to 23."""

SETTINGS_FILES = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
"""What transformers reads beside tokenizer.json where it is there."""

HINT = "use the tokenizer files that the checkpoint was published with"


def load_encoder(model: ModelFolder | Path) -> Callable[[str], list[int]]:
    """Returns the folder's text encoder alone, without transformers.

    Args:
        model: Folder with `tokenizer.json`.

    Returns:
        A function from text to ids, without special tokens.

    Raises:
        ModelError: when there is no tokenizer, when it does not encode each time index as one token, or when it is not the one
            that the folder's config.json speaks of.
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

    def encode(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    check_digits(encode, folder)
    _check_ids(tokenizer, ModelFolder.of(model))
    return encode


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


def check_digits(encode: Callable[[str], list[int]], folder: Path) -> None:
    """Refuses a tokenizer that cuts a time index into several tokens."""
    for number in range(NUM_CHECKED_INTEGERS):
        ids = encode(str(number))
        if len(ids) != 1:
            need = f"one token for each integer 0..{NUM_CHECKED_INTEGERS - 1}: they are the time indices"
            problem = Problem(TOKENIZER_FILE, f"{quote(number)} in {len(ids)} tokens", need, HINT)
            raise ModelError(f"model {folder}", [problem])
