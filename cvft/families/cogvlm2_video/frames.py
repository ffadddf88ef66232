"""Which pixels of a decoded frame the model sees: the resize without antialias reads few of a large one. No torch.

(H, W) -> resized so that the short side is S -> centre crop S x S -> rows and columns of (H, W) that any pixel of it is made of
"""

from __future__ import annotations

import math
from functools import lru_cache

ROUNDING_PX = 1e-2
"""How far off a place in a frame may be computed: single precision is off by 1e-3 in the largest frames."""


def resized_size(height_px: int, width_px: int, *, image_size: int) -> tuple[int, int]:
    """Returns (height, width) in pixels after the short side became `image_size`; the long side is rounded down.

    Source: pytorchvideo's `ShortSideScale`, which the published demo uses; a square counts as landscape.
    """
    if width_px < height_px:
        return math.floor((float(height_px) / width_px) * image_size), image_size
    return image_size, math.floor((float(width_px) / height_px) * image_size)


def crop_start(side_px: int, *, image_size: int) -> int:
    """Returns where the centre crop begins along one side of a resized frame; Python's rounding of halves, as published."""
    return round((side_px - image_size) / 2.0)


def seen_pixels(height_px: int, width_px: int, *, image_size: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns the rows and the columns of a decoded frame that any pixel of the model's input is made of, rising.

    Args:
        height_px: Height of the decoded frame.
        width_px: Its width.
        image_size: Side of the model's input in pixels.
    """
    height, width = resized_size(height_px, width_px, image_size=image_size)
    return _seen(height_px, height, image_size), _seen(width_px, width, image_size)


@lru_cache(maxsize=1024)
def _seen(side_px: int, resized_px: int, image_size: int) -> tuple[int, ...]:
    """Returns what is read along one side: for each pixel the two that it lies between, and others that rounding may make it.

    Source: torch's `area_pixel_compute_source_index`, `align_corners=False`; a test compares all bits.
    """
    start, scale, seen = crop_start(resized_px, image_size=image_size), side_px / resized_px, set()
    for number in range(start, start + image_size):
        place = max(0.0, scale * (number + 0.5) - 0.5)
        first, last = math.floor(max(0.0, place - ROUNDING_PX)), math.floor(place + ROUNDING_PX) + 1
        seen |= {min(each, side_px - 1) for each in range(first, last + 1)}
    return tuple(sorted(seen))
