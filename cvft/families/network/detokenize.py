"""Text of an answer as its tokens come: handed out as soon as later tokens cannot change it."""

from __future__ import annotations

import torch
from transformers import PreTrainedTokenizerBase, TextStreamer


class Detokenizer(TextStreamer):
    """One answer's text.

    Args:
        tokenizer: Turns ids into text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__(tokenizer, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        self._certain = ""

    def add(self, token: int, *, is_last: bool) -> str:
        """Returns what of the text is certain now and was not before."""
        self._certain = ""
        self.put(torch.tensor([token]))
        if is_last:
            self.end()
        return self._certain

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Takes text that is certain; called by transformers."""
        self._certain += text
