"""Draws tokens with random numbers of each answer's own, so that nothing beside it changes what is drawn."""

from __future__ import annotations

import torch
from torch import Tensor

from cvft.families.answering import Drawing


class TokenDraw:
    """One answer's random numbers.

    Args:
        drawing: How its tokens are drawn.
    """

    def __init__(self, drawing: Drawing) -> None:
        self._drawing = drawing
        self._generator = torch.Generator().manual_seed(drawing.seed)

    def draw(self, logits: Tensor) -> int:
        """Draws a token.

        The tokens that are drawn from stand in the order of their ids: in the order of their probabilities, rounding could
        swap two that are equally likely.

        Args:
            logits: (V,) of the next token.

        Returns:
            Its id.
        """
        shares = (logits.double() / self._drawing.temperature).softmax(dim=-1)
        if self._drawing.top_p < 1:
            ordered, ids = shares.sort(descending=True, stable=True)
            is_behind = ordered.cumsum(0) - ordered >= self._drawing.top_p  # of those that are likelier, without itself
            is_behind[0] = False
            shares[ids[is_behind]] = 0
        sums = shares.cumsum(0)
        at = torch.rand((), generator=self._generator, dtype=torch.float64).to(sums.device) * sums[-1]
        return min(int(torch.searchsorted(sums, at, right=True)), len(sums) - 1)
