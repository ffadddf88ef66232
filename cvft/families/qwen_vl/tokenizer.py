"""The tokenizer of a Qwen folder: its text encoder, and the control tokens that a layout writes itself. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cvft.errors import ModelError, Problem, quote
from cvft.families.text_encoder import HINT, TextEncoder, open_tokenizer
from cvft.weights.folder import TOKENIZER_FILE, ModelFolder

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TURN_START, TURN_END, PADDING = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
"""Tokens that only the tokenizer knows. Source: every published Qwen checkpoint; `<|im_end|>` ends an answer."""
THINKING = ("<think>", "</think>")
"""Qwen3.5's brackets around what it thinks; Qwen2.5-VL has none."""
CONFIG_KEYS = ("vision_start_token_id", "vision_end_token_id", "video_token_id", "image_token_id")
"""Ids that config.json states."""


@dataclass(frozen=True)
class SpecialTokens:
    """The ids that a layout writes itself.

    Args:
        turn_start: Begins each turn.
        turn_end: Ends each turn, and so an answer.
        padding: Fills up a batch.
        vision_start: Stands before the tokens of a temporal grid, or of a clip.
        vision_end: Stands behind them.
        video: Placeholder under a clip's tokens.
        image: Placeholder under an image's tokens.
        think_start: Opens what the model thinks, where the vocabulary has it.
        think_end: Closes it.
    """

    turn_start: int
    turn_end: int
    padding: int
    vision_start: int
    vision_end: int
    video: int
    image: int
    think_start: int | None = None
    think_end: int | None = None


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
    problems = []
    for name in (TURN_START, TURN_END, PADDING):
        if name not in ids:
            problems.append(Problem(TOKENIZER_FILE, f"no token {quote(name)}", "Qwen's control tokens", HINT))
    stated: dict[str, Any] = {key: model.config.get(key) for key in CONFIG_KEYS}
    for key, number in stated.items():
        if not _is_id(number) or number not in added:
            need = f"the id of an added token of {TOKENIZER_FILE}"
            problems.append(Problem(f"config.json: {key}", quote(number), need, HINT))
    if not problems and len({*stated.values(), *(ids[name] for name in (TURN_START, TURN_END, PADDING))}) < 7:
        need = f"ids other than one another's and those of {TURN_START}, {TURN_END} and {PADDING}"
        problems.append(Problem(f"config.json: {', '.join(CONFIG_KEYS)}", quote(list(stated.values())), need, HINT))
    num_ids, vocab_size = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1, _vocab_size(model.config)
    if num_ids > vocab_size:
        problems.append(Problem(TOKENIZER_FILE, f"{num_ids} tokens", f"at most {vocab_size}, by config.json", HINT))
    if problems:
        raise ModelError(f"model {model.path}", problems)
    return SpecialTokens(
        turn_start=ids[TURN_START],
        turn_end=ids[TURN_END],
        padding=ids[PADDING],
        vision_start=stated["vision_start_token_id"],
        vision_end=stated["vision_end_token_id"],
        video=stated["video_token_id"],
        image=stated["image_token_id"],
        think_start=ids.get(THINKING[0]),
        think_end=ids.get(THINKING[1]),
    )


def _is_id(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool)


def _vocab_size(config: Mapping[str, Any]) -> int:
    """Qwen2.5-VL states it at the top, the later ones in their text half."""
    size: int = config.get("text_config", config).get("vocab_size", 0)
    return size
