"""The tokenizer of a folder: its text encoder, and the control tokens that a layout writes itself. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cvft.errors import ModelError, Problem, quote
from cvft.families.text_encoder import HINT, TextEncoder, open_tokenizer
from cvft.weights.folder import TOKENIZER_FILE, ModelFolder

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PADDING = "<|endoftext|>"
NAMES = {
    "mask": "[gMASK]",
    "start": "<sop>",
    "system": "<|system|>",
    "user": "<|user|>",
    "assistant": "<|assistant|>",
    "padding": PADDING,
}
"""Tokens that only the tokenizer knows. Source: the published chat template."""
KEYS = {
    "image": "image_token_id",
    "frame_start": "image_start_token_id",
    "frame_end": "image_end_token_id",
    "clip_start": "video_start_token_id",
    "clip_end": "video_end_token_id",
}
"""Ids that config.json states."""


@dataclass(frozen=True)
class SpecialTokens:
    """The ids that a layout writes itself.

    Args:
        mask: Begins a row.
        start: Follows it.
        system: Begins what the model is told.
        user: Begins a question, and so ends an answer.
        assistant: Begins an answer.
        padding: Fills up a batch.
        image: Placeholder under the tokens of a pair of frames.
        frame_start: Stands before them.
        frame_end: Stands behind them.
        clip_start: Stands before a clip.
        clip_end: Stands behind it.
    """

    mask: int = 0
    start: int = 0
    system: int = 0
    user: int = 0
    assistant: int = 0
    padding: int = 0
    image: int = 0
    frame_start: int = 0
    frame_end: int = 0
    clip_start: int = 0
    clip_end: int = 0


def load_encoder(model: ModelFolder | Path) -> tuple[TextEncoder, SpecialTokens]:
    """Returns a folder's text encoder, without transformers, and the ids that the layout writes itself.

    Args:
        model: Folder with `tokenizer.json`.

    Raises:
        ModelError: when there is no tokenizer, or when it is not the one that the folder's config.json speaks of.
    """
    model = ModelFolder.of(model)
    tokenizer = open_tokenizer(model.path)
    special = _special_tokens(tokenizer, model)
    return TextEncoder(tokenizer), special


def _special_tokens(tokenizer: Tokenizer, model: ModelFolder) -> SpecialTokens:
    added = {number: token.content for number, token in tokenizer.get_added_tokens_decoder().items()}
    ids = {content: number for number, content in added.items()}
    problems = [
        Problem(TOKENIZER_FILE, f"no token {quote(name)}", "GLM's control tokens", HINT)
        for name in NAMES.values()
        if name not in ids
    ]
    stated = {name: model.config.get(key) for name, key in KEYS.items()}
    for name, number in stated.items():
        if not isinstance(number, int) or isinstance(number, bool) or number not in added:
            need = f"the id of an added token of {TOKENIZER_FILE}"
            problems.append(Problem(f"config.json: {KEYS[name]}", quote(number), need, HINT))
    if not problems and len({*stated.values(), *(ids[name] for name in NAMES.values())}) < len(KEYS) + len(NAMES):
        need = f"ids other than one another's and those of {', '.join(NAMES.values())}"
        problems.append(Problem(f"config.json: {', '.join(KEYS.values())}", quote(list(stated.values())), need, HINT))
    num_ids = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    vocab_size = model.config["text_config"]["vocab_size"]
    if num_ids > vocab_size:
        problems.append(Problem(TOKENIZER_FILE, f"{num_ids} tokens", f"at most {vocab_size}, by config.json", HINT))
    if problems:
        raise ModelError(f"model {model.path}", problems)
    known = {name: number for name, number in stated.items() if number is not None}
    return SpecialTokens(**known, **{name: ids[content] for name, content in NAMES.items()})
