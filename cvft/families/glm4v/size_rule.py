"""How many patches and tokens a clip becomes: a budget of the whole clip decides the size of its frames. No torch.

    T frames of H x W px, an even number -> resized to h·P x w·P px -> T/2 x h x w patches -> T/2 x (h/m) x (w/m) tokens

Source: `smart_resize` and `Glm4vVideoProcessor` of transformers; golden vectors hold it.
"""

from __future__ import annotations

import math

from cvft.families.glm4v.sizes import TowerSizes
from cvft.families.grid import Grid, check_aspect_ratio

MIN_CLIP_PX = 112 * 112
"""Fewest pixels of all frames together. Source: `shortest_edge` of the makers' video processor."""


def grid_of(num_frames: int, height_px: int, width_px: int, *, tower: TowerSizes, max_tokens: int) -> Grid:
    """Returns the patches of a clip.

    Args:
        num_frames: Frames that the sampling rule chose; the last one is repeated until they fill their pairs.
        height_px: Their height.
        width_px: Their width.
        tower: Sizes of patches.
        max_tokens: Most tokens of the clip. The makers state it in pixels, so many for each token.

    Raises:
        ValueProblem: when one side is too long for the other.
    """
    patch = tower.temporal_patch_size
    num_frames = math.ceil(num_frames / patch) * patch
    height, width = _choose_size(num_frames, height_px, width_px, tower=tower, max_tokens=max_tokens)
    sides = (height // tower.patch_size, width // tower.patch_size)
    return Grid(num_frames // patch, *sides, tower.spatial_merge_size)


def _choose_size(
    num_frames: int, height_px: int, width_px: int, *, tower: TowerSizes, max_tokens: int
) -> tuple[int, int]:
    factor = tower.token_px
    max_px = max_tokens * factor**2 * tower.temporal_patch_size
    if height_px < factor or width_px < factor:
        scale = max(factor / height_px, factor / width_px)
        height_px, width_px = int(height_px * scale), int(width_px * scale)
    check_aspect_ratio(height_px, width_px)
    height, width = (round(side / factor) * factor for side in (height_px, width_px))
    if num_frames * height * width > max_px:
        shrink = math.sqrt((num_frames * height_px * width_px) / max_px)
        height, width = (max(factor, math.floor(px / shrink / factor) * factor) for px in (height_px, width_px))
    elif num_frames * height * width < MIN_CLIP_PX:
        grow = math.sqrt(MIN_CLIP_PX / (num_frames * height_px * width_px))
        height, width = (math.ceil(px * grow / factor) * factor for px in (height_px, width_px))
    return height, width
