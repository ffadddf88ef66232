"""From what is known of a clip to what a row says of it: its patches, its seconds, the step between its positions. No torch.

`ClipView` + `Inputs` (a preprocessing's own fields, typed) -> `ClipLayout`
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

from cvft.data.video.view import ClipView
from cvft.errors import ClipError, Problem, ValueProblem
from cvft.families.family import FieldValue
from cvft.families.qwen_vl.grid import grid_of
from cvft.families.qwen_vl.layout import ClipLayout, ClipTags, Style
from cvft.families.qwen_vl.sizes import TowerSizes
from cvft.families.qwen_vl.times import GridSeconds, second_per_grid, shown_seconds

MIN_IMAGE_TOKENS, MAX_IMAGE_TOKENS = 4, 16_384
"""Tokens of a picture that is no frame of a clip: smaller ones are scaled up, larger ones down. Source: qwen-vl-utils 0.0.14,
`vision_process.py`; the makers' image processors and golden vectors hold the rest."""

MAX_UNEVEN = 0.1
"""Share by which distances of stated seconds may differ where a model is told one: more than rounding to 0.01 s makes of 10 per
second."""


@dataclass(frozen=True)
class Inputs:
    """What of a preprocessing is this family's own; its fields stand in contracts under these names.

    Args:
        system: System prompt; an empty one stands for none.
        fps: Frames per second of the sampling rule `fps`; 0 with another rule.
        min_frames: Fewest frames of that rule; 0 with another.
        min_frame_tokens: Fewest tokens of a temporal grid.
        max_frame_tokens: Most tokens of one.
        max_clip_tokens: Most tokens of a clip, as far as `min_frame_tokens` allows.
        text_positions: See `cvft.families.network.positions.TextPositions`; `released` where both are one.
        grid_seconds: See `cvft.families.qwen_vl.times.GridSeconds`; `exact` where seconds are written out.
        clip_tags: See `cvft.families.qwen_vl.layout.ClipTags`; `released` where there is no choice.
    """

    system: str
    fps: float
    min_frames: int
    min_frame_tokens: int
    max_frame_tokens: int
    max_clip_tokens: int
    text_positions: Literal["released", "transformers5"]
    grid_seconds: GridSeconds
    clip_tags: ClipTags

    @classmethod
    def of(cls, fields: Mapping[str, FieldValue]) -> Self:
        """Reads the fields of a preprocessing."""
        values: Any = fields
        return cls(**values)

    def to_fields(self) -> dict[str, FieldValue]:
        """Returns them by their names in a contract."""
        return asdict(self)


def lay_out_clip(
    view: ClipView, *, inputs: Inputs, tower: TowerSizes, style: Style, tokens_per_second: float
) -> ClipLayout:
    """Lays out a clip, or a picture.

    Args:
        view: Which frames of it are shown.
        inputs: The preprocessing's own fields.
        tower: Sizes of patches.
        style: How the generation writes rows.
        tokens_per_second: Positions per second, where time is told by positions.

    Raises:
        ClipError: when its frames have a shape that the makers refuse, or its seconds cannot be told; who knows it names it.
    """
    num_frames = len(view.frame_indices)
    patch = tower.temporal_patch_size
    num_grids = -(-num_frames // patch)
    least = inputs.min_frame_tokens
    most = max(min(inputs.max_frame_tokens, inputs.max_clip_tokens // num_grids), least)
    if view.is_image:
        least, most = MIN_IMAGE_TOKENS, MAX_IMAGE_TOKENS
    try:
        grid = grid_of(
            num_frames,
            view.height_px,
            view.width_px,
            patch_px=tower.patch_size,
            merge=tower.spatial_merge_size,
            temporal_patch=patch,
            min_tokens=least,
            max_tokens=most,
        )
    except ValueProblem as problem:
        raise ClipError("the clip", [Problem("the clip", problem.got, problem.need, problem.hint)]) from problem
    if view.is_image:
        return ClipLayout(grid, (), 0.0, is_image=True)
    if style.has_seconds:
        seconds = shown_seconds(view.counted_s, temporal_patch=patch)
        return ClipLayout(grid, seconds, 0.0)
    if view.has_own_times:
        _refuse_uneven(view)
    step_s = second_per_grid(
        num_frames,
        num_frames_total=view.num_frames_total,
        avg_fps=view.avg_fps,
        temporal_patch=patch,
        grid_seconds=inputs.grid_seconds,
    )
    return ClipLayout(grid, (), tokens_per_second * step_s)


def _refuse_uneven(view: ClipView) -> None:
    """Refuses stated seconds of which one distance says nothing; those of a file are counted by their makers' rule."""
    steps_s = [after - before for before, after in itertools.pairwise(view.timestamps_s)]
    if steps_s and max(steps_s) - min(steps_s) > MAX_UNEVEN * max(steps_s):
        got = f"seconds {min(steps_s):.3g} to {max(steps_s):.3g} s apart"
        hint = "this model is told one distance for all frames; take frames at a rate, or a model that writes seconds"
        raise ClipError("the clip", [Problem("the clip", got, "even distances between the shown frames", hint)])
