"""A row's ids and types as they are written: text between control tokens is tokenised as a whole. No torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class LayoutWriter:
    """Ids and types of a row as it grows; text waits until a control token or a look at the ids cuts it off.

    Args:
        encode: Tokenises a piece of text without control tokens.
        ids: What is written.
        types: 1 under a clip's tokens, 0 elsewhere.
        waiting: Text that is not tokenised yet.
    """

    encode: Callable[[str], list[int]]
    ids: list[int] = field(default_factory=list)
    types: list[int] = field(default_factory=list)
    waiting: str = ""

    def text(self, text: str) -> None:
        """Writes text behind what waits."""
        self.waiting += text

    def control(self, number: int) -> None:
        """Writes a control token."""
        self._flush()
        self.ids.append(number)
        self.types.append(0)

    def clip(self, number: int, num_tokens: int) -> None:
        """Writes the placeholder of a clip, so many times."""
        self._flush()
        self.ids += [number] * num_tokens
        self.types += [1] * num_tokens

    @property
    def num_tokens(self) -> int:
        """Tokens so far; what waits is tokenised first."""
        self._flush()
        return len(self.ids)

    def finish(self) -> tuple[list[int], list[int]]:
        """Returns ids and types of all that was written."""
        self._flush()
        return self.ids, self.types

    def _flush(self) -> None:
        if self.waiting:
            ids = self.encode(self.waiting)
            self.ids += ids
            self.types += [0] * len(ids)
            self.waiting = ""
