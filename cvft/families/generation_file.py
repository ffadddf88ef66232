"""generation_config.json of a model folder: which tokens end an answer. No torch."""

from __future__ import annotations

import os
from typing import Any

from cvft.errors import Problem
from cvft.json_files import JsonError, read_object, show
from cvft.weights.folder import ModelFolder

GENERATION_FILE = "generation_config.json"
HINT = "use the files that the checkpoint was published with"
MAX_STOP_TOKENS = 64


def check_generation(folder: ModelFolder, *, vocab_size: int) -> list[Problem]:
    """Returns a problem where generation_config.json states no usable tokens that end an answer.

    The rest of it steers sampling. Answers are greedy here, without a published penalty on repetitions.

    Args:
        folder: The folder.
        vocab_size: Entries of its vocabulary, by config.json.
    """
    values = _read(folder)
    if isinstance(values, Problem):
        return [values]
    stated = _as_list(values.get("eos_token_id"))
    bad = [each for each in stated if not isinstance(each, int) or isinstance(each, bool) or not 0 <= each < vocab_size]
    if bad:
        return [Problem(f"{GENERATION_FILE}: eos_token_id", show(bad[0]), f"ids below vocab_size, {vocab_size}", HINT)]
    if len(stated) > MAX_STOP_TOKENS:
        return [Problem(f"{GENERATION_FILE}: eos_token_id", "a longer list", f"at most {MAX_STOP_TOKENS} ids")]
    return []


def stop_tokens(folder: ModelFolder, *, turn_end: int) -> list[int]:
    """Returns the tokens that end an answer: the one that training writes, and what generation_config.json adds.

    Args:
        folder: The folder, checked.
        turn_end: What training writes at the end of an answer.
    """
    values = _read(folder)
    assert not isinstance(values, Problem), "a folder that was checked"
    return list(dict.fromkeys([turn_end, *_as_list(values.get("eos_token_id"))]))


def _as_list(stated: Any) -> list[Any]:
    return stated if isinstance(stated, list) else [] if stated is None else [stated]


def _read(folder: ModelFolder) -> dict[str, Any] | Problem:
    path = folder.path / GENERATION_FILE
    if folder.is_absent or not os.path.lexists(path):
        return {}
    try:
        return read_object(path)
    except JsonError as error:
        return Problem(GENERATION_FILE, str(error), "the published file, or none", HINT)
