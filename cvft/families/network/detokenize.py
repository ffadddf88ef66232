"""Text of an answer as its tokens come: handed out as soon as later tokens cannot change it."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

UNFINISHED = "\ufffd"
"""What a tokenizer writes for bytes that are no whole character yet."""


class Detokenizer:
    """One answer's text.

    The tokenizers of all families write bytes: the text of tokens is that of the tokens before and the rest, but for a character
    that is not whole.

    Args:
        tokenizer: Turns ids into text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._num_certain = 0

    def add(self, token: int, *, is_last: bool) -> str:
        """Returns what of the text is certain now and was not before."""
        self._ids.append(token)
        # with the piece before it: what a token looks like may depend on whether a text begins with it
        before, text = self._text(self._ids[: self._num_certain]), self._text(self._ids)
        if text.endswith(UNFINISHED) and not is_last:
            return ""
        del self._ids[: self._num_certain]
        self._num_certain = len(self._ids)
        return text[len(before) :]

    def _text(self, ids: list[int]) -> str:
        if not ids:
            return ""
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text
