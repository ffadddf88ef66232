"""generation_config.json: what of it answers carry out, what greedy answers make void, and the rest by its name. No torch.

Answers are greedy and as long as a command says. So the tokens that end one are all that is carried out; whatever only steers
sampling has nothing to steer; and a key that would change greedy answers is refused rather than passed over.
"""

from __future__ import annotations

import os
from typing import Any

from cvft.errors import Problem
from cvft.families.cogvlm2_video.config_file import SAMPLING, TOKEN_ID
from cvft.json_files import (
    ANYTHING,
    FLAG,
    NULL,
    JsonError,
    check_object,
    either,
    list_of,
    number,
    one_of,
    read_object,
    show,
    text,
)
from cvft.weights.folder import ModelFolder

GENERATION_FILE = "generation_config.json"

MAX_STOP_TOKENS = 64

_NUMBER = either(number(-1e9, 1e9), NULL)

NEEDS = {
    "eos_token_id": either(TOKEN_ID, list_of(TOKEN_ID, words="a list of such ids"), NULL),
    "bos_token_id": either(TOKEN_ID, NULL),
    "pad_token_id": either(TOKEN_ID, NULL),
    "use_cache": either(FLAG, NULL),
    "_from_model_config": either(FLAG, NULL),
    "transformers_version": either(text(), NULL),
    **{key: either(FLAG, _NUMBER) if key == "do_sample" else _NUMBER for key in SAMPLING},
    "num_beams": one_of(1, None),
    "num_beam_groups": one_of(1, None),
    "num_return_sequences": one_of(1, None),
    "repetition_penalty": one_of(1.0, None),
    "encoder_repetition_penalty": one_of(1.0, None),
    "length_penalty": one_of(1.0, 0.0, None),
    "diversity_penalty": one_of(0.0, None),
    "no_repeat_ngram_size": one_of(0, None),
    "encoder_no_repeat_ngram_size": one_of(0, None),
    "min_length": one_of(0, None),
    "min_new_tokens": one_of(0, None),
    "early_stopping": one_of(False, None),
    "renormalize_logits": either(FLAG, NULL),  # the likeliest token stays the likeliest
    "remove_invalid_values": one_of(False, None),
    "output_scores": one_of(False, None),
    "output_logits": one_of(False, None),
    "output_attentions": one_of(False, None),
    "output_hidden_states": one_of(False, None),
    "return_dict_in_generate": one_of(False, None),
    "low_memory": either(FLAG, NULL),
    "token_healing": one_of(False, None),
    "is_assistant": one_of(False, None),
    "guidance_scale": one_of(1.0, None),
    "num_assistant_tokens": ANYTHING,
    "num_assistant_tokens_schedule": ANYTHING,
    "assistant_confidence_threshold": ANYTHING,
    "max_matching_ngram_size": ANYTHING,
    "target_lookbehind": ANYTHING,
    "assistant_lookbehind": ANYTHING,
}
"""Keys that may stand there, with the values that they may have; the last ones speak of an assistant, which there is none of."""


def check_generation(model: ModelFolder) -> list[Problem]:
    """Compares a folder's generation_config.json with what answers carry out.

    Args:
        model: The folder, whose config.json was checked.

    Returns:
        A problem for every key that is of another kind or would have no effect; none where there is no file.
    """
    values = _read(model)
    if isinstance(values, Problem):
        return [values]
    problems = check_object(values, NEEDS, where=GENERATION_FILE, optional=NEEDS, others=_judge)
    if problems:
        return problems
    beyond = [number for number in stop_tokens(model) if number >= model.config["vocab_size"]]
    if beyond:
        need = f"ids below vocab_size, {model.config['vocab_size']}"
        return [Problem(f"{GENERATION_FILE}: eos_token_id", show(beyond[0]), need)]
    if len(stop_tokens(model)) > MAX_STOP_TOKENS:
        return [Problem(f"{GENERATION_FILE}: eos_token_id", "a longer list", f"at most {MAX_STOP_TOKENS} ids")]
    return []


def stop_tokens(model: ModelFolder) -> list[int]:
    """Returns the tokens that end an answer: the one that training writes, and what generation_config.json adds.

    Args:
        model: The folder, checked.
    """
    values = _read(model)
    assert not isinstance(values, Problem), "a folder that was checked"
    stated = values.get("eos_token_id")
    more = stated if isinstance(stated, list) else [] if stated is None else [stated]
    return list(dict.fromkeys([model.config["eos_token_id"], *more]))


def _read(model: ModelFolder) -> dict[str, Any] | Problem:
    path = model.path / GENERATION_FILE
    if not os.path.lexists(path):
        return {}
    try:
        return read_object(path)
    except JsonError as error:
        hint = "remove the file, or get it again: answers need nothing of it"
        return Problem(GENERATION_FILE, str(error), "the published file, or none", hint)


def _judge(key: str, value: Any) -> Problem | None:
    if value is None:
        return None
    hint = "remove the key: answers are greedy, and their length is the command's"
    return Problem(f"{GENERATION_FILE}: {key}", show(value), "no such key: nothing here would obey it", hint)
