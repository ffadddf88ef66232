"""Hands on what a batch says, token by token, and ends each answer by itself: at its stop, at its limit, when nobody listens.

generate -> one new token per row -> text that later tokens cannot change -> `on_text` -> still wanted, or not
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, StoppingCriteria, TextStreamer
from transformers.generation.streamers import BaseStreamer

from cvft.families.family import OnText


class Listeners(BaseStreamer, StoppingCriteria):
    """One batch's answers, as transformers' generation makes them.

    Args:
        tokenizer: Turns ids into text.
        numbers: The number of each row of the batch, for `on_text`.
        limits: Longest answer of each row in tokens.
        stops: Ids that end an answer.
        on_text: See `cvft.families.family.Runtime.generate`; None where nobody listens.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        numbers: Sequence[int],
        limits: Sequence[int],
        stops: Collection[int],
        on_text: OnText | None,
    ) -> None:
        self._numbers = numbers
        self._limits = limits
        self._stops = stops
        self._on_text = on_text
        self._pieces: list[str] = []
        self._streamers = [_Pieces(tokenizer, self._pieces.append) for _ in numbers] if on_text is not None else []
        self._is_prompt = True
        self._num_tokens = 0
        self.has_ended = [False for _ in numbers]

    def put(self, value: Tensor) -> None:
        """Takes the prompts, then one token (B,) at a time; called by transformers."""
        if self._is_prompt:
            self._is_prompt = False
            return
        self._num_tokens += 1
        for row, token in enumerate(value.tolist()):
            if self.has_ended[row]:
                continue
            ends = token in self._stops or self._num_tokens >= self._limits[row]
            if self._on_text is not None:
                self._pieces.clear()
                self._streamers[row].put(value[row : row + 1])
                if ends:
                    self._streamers[row].end()
                ends = not self._on_text(self._numbers[row], "".join(self._pieces)) or ends
            self.has_ended[row] = ends

    def end(self) -> None:
        """Nothing is left: each row has ended by itself; called by transformers."""

    def __call__(self, input_ids: Tensor, scores: Any, **others: Any) -> Tensor:
        """Tells which rows are done (B,); called by transformers after `put`."""
        return torch.tensor(self.has_ended, device=input_ids.device)


class _Pieces(TextStreamer):
    """Hands on text as soon as later tokens cannot change it."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, add: Callable[[str], object]) -> None:
        super().__init__(tokenizer, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        self._add = add

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Takes a piece; called by transformers."""
        self._add(text)
