"""From what is known of a clip to what a row says of it: its patches and its seconds. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from cvft.data.video.view import ClipView
from cvft.errors import ClipError, Problem, ValueProblem
from cvft.families.family import FieldValue
from cvft.families.glm4v.size_rule import grid_of
from cvft.families.glm4v.sizes import TowerSizes
from cvft.families.grid import Grid

MAX_IMAGE_TOKENS = 6144
"""Most tokens of a picture that is no frame of a clip; larger ones are scaled down. Source: `longest_edge` of the makers'
preprocessor_config.json, 28 * 28 * 2 * 6144 pixels, the picture counted twice."""


@dataclass(frozen=True)
class Inputs:
    """What of a preprocessing is this family's own; its fields stand in contracts under these names.

    Args:
        system: System prompt; an empty one stands for none.
        fps: Frames per second of the sampling rule `fps`; 0 with another rule.
        min_frames: Fewest frames of that rule; 0 with another.
        max_clip_tokens: Most tokens of a clip.
    """

    system: str
    fps: float
    min_frames: int
    max_clip_tokens: int

    @classmethod
    def of(cls, fields: Mapping[str, FieldValue]) -> Self:
        """Reads the fields of a preprocessing."""
        values: Any = fields
        return cls(**values)

    def to_fields(self) -> dict[str, FieldValue]:
        """Returns them by their names in a contract."""
        return asdict(self)


@dataclass(frozen=True)
class ClipLayout:
    """What a row says of its clip, or of its picture.

    Args:
        grid: Its patches.
        seconds: The whole second of the first frame of each pair, as it is written behind the pair; empty for a picture.
        is_image: Whether it is a picture, which has no second and no tag of a clip.
    """

    grid: Grid
    seconds: tuple[int, ...]
    is_image: bool = False


def lay_out_clip(view: ClipView, *, inputs: Inputs, tower: TowerSizes) -> ClipLayout:
    """Lays out a clip, or a picture.

    Args:
        view: Which frames of it are shown.
        inputs: The preprocessing's own fields.
        tower: Sizes of patches.

    Raises:
        ClipError: when its frames have a shape that the makers refuse; who knows the clip names it.
    """
    num_frames = len(view.frame_indices)
    max_tokens = MAX_IMAGE_TOKENS if view.is_image else inputs.max_clip_tokens
    try:
        grid = grid_of(num_frames, view.height_px, view.width_px, tower=tower, max_tokens=max_tokens)
    except ValueProblem as problem:
        raise ClipError("the clip", [Problem("the clip", problem.got, problem.need, problem.hint)]) from problem
    if view.is_image:
        return ClipLayout(grid, (), is_image=True)
    return ClipLayout(grid, tuple(int(second) for second in view.counted_s[:: tower.temporal_patch_size]))
