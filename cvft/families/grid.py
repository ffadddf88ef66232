"""The patches of a clip, for families that take frames of any shape. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from cvft.errors import ValueProblem, quote

MAX_ASPECT_RATIO = 200
"""Longest side over shortest one of a frame. Source: the makers' processors refuse more."""


@dataclass(frozen=True)
class Grid:
    """The patches of one clip.

    Args:
        num_grids: Temporal grids, t.
        num_rows: Patches from top to bottom, h.
        num_columns: Patches from left to right, w.
        merge: Side of the square of patches that becomes one token. Source: `spatial_merge_size`, always 2 so far.
    """

    num_grids: int
    num_rows: int
    num_columns: int
    merge: int = 2

    @property
    def num_patches(self) -> int:
        """Patches of the whole clip, t·h·w."""
        return self.num_grids * self.num_rows * self.num_columns

    @property
    def num_tokens_per_grid(self) -> int:
        """Tokens of one temporal grid."""
        return (self.num_rows // self.merge) * (self.num_columns // self.merge)

    @property
    def num_tokens(self) -> int:
        """Tokens of the whole clip."""
        return self.num_grids * self.num_tokens_per_grid

    def frame_px(self, patch_px: int) -> tuple[int, int]:
        """Returns height and width of its frames, which their patches fill, by the side of one."""
        return self.num_rows * patch_px, self.num_columns * patch_px


class Patches(Protocol):
    """What of a tower's sizes decides those of frames."""

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels."""

    @property
    def temporal_patch_size(self) -> int:
        """Frames that one patch spans."""

    @property
    def spatial_merge_size(self) -> int:
        """Patches along the side of the square that becomes one token."""


def patch_fields(tower: Patches) -> dict[str, int]:
    """Returns what of a tower decides the size of kept frames, for their key."""
    return {
        "patch_px": tower.patch_size,
        "temporal_patch": tower.temporal_patch_size,
        "merge": tower.spatial_merge_size,
    }


def check_aspect_ratio(height_px: int, width_px: int) -> None:
    """Refuses frames whose one side is more than `MAX_ASPECT_RATIO` times the other.

    Raises:
        ValueProblem: for those.
    """
    if max(height_px, width_px) > MAX_ASPECT_RATIO * min(height_px, width_px):
        size = quote(f"{width_px}x{height_px}")
        raise ValueProblem(
            f"frames of {size} px",
            f"a long side at most {MAX_ASPECT_RATIO} times the short one",
            "cut the clip's black borders, or leave it out",
        )
