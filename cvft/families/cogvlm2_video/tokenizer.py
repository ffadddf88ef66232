"""The tokenizer of a CogVLM2-Video folder: it must be the one that config.json speaks of. No torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from cvft.errors import ModelError, Problem, quote
from cvft.families.text_encoder import HINT, TextEncoder, open_tokenizer
from cvft.weights.folder import TOKENIZER_FILE, ModelFolder

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def load_encoder(model: ModelFolder | Path) -> TextEncoder:
    """Returns the folder's text encoder alone, without transformers.

    Args:
        model: Folder with `tokenizer.json`.

    Raises:
        ModelError: when there is no tokenizer, or when it is not the one that the folder's config.json speaks of.
    """
    tokenizer = open_tokenizer(model.path if isinstance(model, ModelFolder) else model)
    _check_ids(tokenizer, ModelFolder.of(model))
    return TextEncoder(tokenizer)


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
