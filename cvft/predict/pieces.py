"""Text of an answer as it comes: without the white space at its edges, and up to the first stop text."""

from __future__ import annotations

from collections.abc import Sequence


class Pieces:
    """Takes pieces of raw text, and gives pieces to show that together are the answer.

    Args:
        stops: Texts that end the answer where they begin; none of them is shown.

    Example:
        >>> pieces = Pieces(["END"])
        >>> [pieces.add(piece) for piece in (" a man ", "E", "at", " E", "ND x", "y")]
        ['a man', '', ' Eat', '', '', '']
        >>> pieces.has_stopped, pieces.rest()
        (True, '')
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self.has_stopped = False
        """Whether a stop text was met."""
        self._stops = stops
        self._held = ""
        self._has_begun = False

    def add(self, piece: str) -> str:
        """Returns what can be shown now: nothing that could still turn out to be an edge, or part of a stop."""
        if self.has_stopped:
            return ""
        self._held = self._held + piece if self._has_begun else (self._held + piece).lstrip()
        found = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            self.has_stopped = True
            self._held = self._held[: min(found)]
            return self.rest()
        return self._show(self._held[: len(self._held) - self._num_open()].rstrip())

    def rest(self) -> str:
        """Returns what was held back, at the end of the answer."""
        return self._show(self._held.rstrip())

    def _show(self, shown: str) -> str:
        self._held = self._held[len(shown) :]
        self._has_begun = self._has_begun or bool(shown)
        return shown

    def _num_open(self) -> int:
        """Length of the longest end of the held text with which a stop begins."""
        return max(
            (size for stop in self._stops for size in range(1, len(stop)) if self._held.endswith(stop[:size])),
            default=0,
        )
