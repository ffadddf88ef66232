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

TURN_START, TURN_END, PADDING = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
FRAME_START, FRAME_END = "<img>", "</img>"
NAMES = (TURN_START, TURN_END, PADDING, FRAME_START, FRAME_END)
"""Tokens that only the tokenizer knows. Source: the published checkpoints; `<|im_end|>` ends an answer."""
IMAGE_KEY = "image_token_id"
"""What config.json calls the placeholder under a frame's tokens."""


@dataclass(frozen=True)
class SpecialTokens:
    """The ids that a layout writes itself.

    Args:
        turn_start: Begins each turn.
        turn_end: Ends each turn, and so an answer.
        padding: Fills up a batch.
        frame_start: Stands before the tokens of a frame.
        frame_end: Stands behind them.
        image: Placeholder under a frame's tokens.
    """

    turn_start: int
    turn_end: int
    padding: int
    frame_start: int
    frame_end: int
    image: int


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
        Problem(TOKENIZER_FILE, f"no token {quote(name)}", "InternVL's control tokens", HINT)
        for name in NAMES
        if name not in ids
    ]
    image = model.config.get(IMAGE_KEY)
    if not isinstance(image, int) or isinstance(image, bool) or image not in added or added[image] in NAMES:
        need = f"the id of an added token of {TOKENIZER_FILE}, and none of {', '.join(NAMES)}"
        problems.append(Problem(f"config.json: {IMAGE_KEY}", quote(image), need, HINT))
    num_ids = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    vocab_size = model.config["text_config"]["vocab_size"]
    if num_ids > vocab_size:
        problems.append(Problem(TOKENIZER_FILE, f"{num_ids} tokens", f"at most {vocab_size}, by config.json", HINT))
    if problems:
        raise ModelError(f"model {model.path}", problems)
    assert isinstance(image, int), "just checked"
    turn_start, turn_end, padding, frame_start, frame_end = (ids[name] for name in NAMES)
    return SpecialTokens(turn_start, turn_end, padding, frame_start, frame_end, image)
