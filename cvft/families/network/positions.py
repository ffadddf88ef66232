"""Rotary positions of a row: three coordinates of every token, from which tokens are the clip's and how they lie in it.

text: (p, p, p), p goes on by one        clip: start + (time, row, column)
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Literal

import torch
from torch import Tensor

from cvft.families.grid import Grid

TextPositions = Literal["released", "transformers5"]
"""Where text goes on behind a clip.

`released`: behind the largest of all three coordinates, as in transformers up to 5.2 and in vLLM. `transformers5`: behind as many
positions as the longer side of a grid has tokens, as in transformers from 5.3 on. Both are one for Qwen3-VL and Qwen3.5."""


def row_positions(
    token_type_ids: Sequence[int],
    *,
    grids: Sequence[Grid],
    grid_steps: Sequence[float] = (),
    text_positions: TextPositions = "released",
) -> Tensor:
    """Gives every token of one row its positions.

    Args:
        token_type_ids: L integers, 1 for a clip's tokens and 0 for others, as `Layout` has them. A run of clip tokens is one
            temporal grid (Qwen3-VL, Qwen3.5) or all of them (Qwen2.5-VL).
        grids: The patches of each clip, in the order of their tokens; none for a text-only row.
        grid_steps: Of each clip, positions from one temporal grid of a run to the next, `tokens_per_second` times
            the seconds from one to the next; its multiples are cut to integers, in fp32 as by transformers. Without, 0 of each.
        text_positions: See `TextPositions`.

    Returns:
        (L, 3) int64: time, row, column.

    Source:
        `get_rope_index` of transformers; golden vectors of 4.57.6 hold `released`.
    """
    pieces, start = [], 0
    steps = grid_steps or [0.0] * len(grids)
    left = [(grid, step, grid.num_grids) for grid, step in zip(grids, steps, strict=True)][::-1]
    for is_clip, run in groupby(token_type_ids):
        length = sum(1 for _ in run)
        if not is_clip:
            pieces.append(torch.arange(start, start + length)[:, None].expand(length, 3))
            start += length
            continue
        assert left, "clip tokens without a grid"
        grid, grid_step, num_left = left.pop()
        num_grids, rest = divmod(length, grid.num_tokens_per_grid)
        is_whole = rest == 0 and num_grids <= num_left
        assert is_whole, f"{length} clip tokens in {num_left} grids of {grid.num_tokens_per_grid}"
        if num_grids < num_left:  # the next run is of the same clip
            left.append((grid, grid_step, num_left - num_grids))
        num_rows, num_columns = grid.num_rows // grid.merge, grid.num_columns // grid.merge
        times = (torch.arange(num_grids) * grid_step).long()
        axes = torch.meshgrid(times, torch.arange(num_rows), torch.arange(num_columns), indexing="ij")
        piece = torch.stack([axis.reshape(-1) for axis in axes], dim=1)
        pieces.append(piece + start)
        start += max(num_rows, num_columns) if text_positions == "transformers5" else int(piece.max()) + 1
    return torch.cat(pieces) if pieces else torch.zeros(0, 3, dtype=torch.long)


def next_positions(last: Tensor, num_tokens: int) -> Tensor:
    """Returns the positions of tokens that are generated behind a row: one more for each.

    Args:
        last: (..., 3) positions of the row's last token, which is text.
        num_tokens: How many tokens, K.

    Returns:
        (..., K, 3) int64.
    """
    return last[..., None, :] + torch.arange(1, num_tokens + 1, device=last.device)[:, None]
