"""How many patches and tokens a clip becomes: arithmetic on its frames and their size. No torch.

    T frames of H x W px -> resized to h·P x w·P px -> t x h x w patches -> t x (h/m) x (w/m) tokens

P is the patch's side, m the merger's, and two frames make one temporal grid: t = ceil(T / 2).
Source: `smart_resize` of transformers 4.57.6's Qwen2-VL processors; golden vectors hold it.
"""

from __future__ import annotations

import math

from cvft.errors import ValueProblem
from cvft.families.grid import Grid, check_aspect_ratio


def choose_size(height_px: int, width_px: int, *, factor: int, min_tokens: int, max_tokens: int) -> tuple[int, int]:
    """Chooses the size that frames are resized to: whole tokens, and near to the shape that they have.

    A size whose sides are rounded to whole tokens and that lies within both bounds is taken as it is. A larger one shrinks to at
    most `max_tokens`, a smaller one grows to at least `min_tokens`. As the makers wrote it: growing rounds both sides up, which
    may pass a `max_tokens` that lies close to `min_tokens`, and a side is never less than one token, so a very long frame may
    keep more than `max_tokens`.

    Args:
        height_px: A frame's height.
        width_px: A frame's width.
        factor: Side of a token in pixels: patch times merge.
        min_tokens: Fewest tokens of a temporal grid.
        max_tokens: Most tokens of a temporal grid.

    Returns:
        (height, width) in pixels, multiples of `factor`.

    Raises:
        ValueProblem: when one side is too long for the other, or the bounds contradict each other.
    """
    if not 1 <= min_tokens <= max_tokens:
        raise ValueProblem(f"{min_tokens} to {max_tokens} tokens per grid", "at least 1, and the smaller one first")
    check_aspect_ratio(height_px, width_px)
    min_px, max_px = min_tokens * factor**2, max_tokens * factor**2
    height, width = (round(side / factor) * factor for side in (height_px, width_px))
    if height * width > max_px:
        shrink = math.sqrt((height_px * width_px) / max_px)
        height, width = (max(factor, math.floor(px / shrink / factor) * factor) for px in (height_px, width_px))
    elif height * width < min_px:
        grow = math.sqrt(min_px / (height_px * width_px))
        height, width = (math.ceil(px * grow / factor) * factor for px in (height_px, width_px))
    return height, width


def grid_of(
    num_frames: int,
    height_px: int,
    width_px: int,
    *,
    patch_px: int,
    merge: int,
    temporal_patch: int,
    min_tokens: int,
    max_tokens: int,
) -> Grid:
    """Returns the patches of a clip.

    Args:
        num_frames: Frames that the sampling rule chose; the last one is repeated until they fill their temporal grids.
        height_px: Their height.
        width_px: Their width.
        patch_px: Side of a patch. Source: `patch_size`.
        merge: Side of the square of patches that becomes one token. Source: `spatial_merge_size`.
        temporal_patch: Frames of a temporal grid. Source: `temporal_patch_size`.
        min_tokens: Fewest tokens of a temporal grid.
        max_tokens: Most tokens of a temporal grid.

    Raises:
        ValueProblem: as `choose_size`.
    """
    factor = patch_px * merge
    height, width = choose_size(height_px, width_px, factor=factor, min_tokens=min_tokens, max_tokens=max_tokens)
    return Grid(math.ceil(num_frames / temporal_patch), height // patch_px, width // patch_px, merge)
