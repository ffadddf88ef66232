"""An opened template of ms-swift: what it makes of turns and frames, and what it reads as more than text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

Turns = Sequence[tuple[str, str | None]]
"""(question, answer) turns, oldest first; the last answer is None for a prompt."""


class OpenTemplate(Protocol):
    """What `cvft.families.any_swift.runtime` opens: the only file here that speaks ms-swift."""

    tokenizer: Any
    image_id: int
    """Id under a frame's tokens."""
    stop_ids: Sequence[int]
    """Ids that end an answer."""
    reserved: Sequence[str]
    """Words in a text that would be read as tokens of control."""
    takes_system: bool
    """Whether it has a place for a system text."""

    def encode(
        self, turns: Turns, frames: Tensor | None, *, system: str = "", sizes_only: bool = False
    ) -> Mapping[str, Any]:
        """Encodes turns; the frames, uint8 (T, H, W, 3), stand before the first question.

        With `sizes_only`, what is on the frames does not count, and pixels are of the right shape alone.
        """
