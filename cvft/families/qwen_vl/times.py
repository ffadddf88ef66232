"""Which time of a clip the model is told, from the numbers of the frames that it sees. No torch.

The makers count a frame's time as its number over the clip's average frames per second, for clips whose rate varies too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

GridSeconds = Literal["exact", "truncated"]
"""How Qwen2.5-VL's seconds per temporal grid are counted.

`exact`: with their fraction, as by transformers 5.19 and by vLLM. `truncated`: cut to whole seconds, as by transformers 4.57,
where grids of less than a second all lie at second 0."""


def shown_seconds(frame_seconds: Sequence[float], *, temporal_patch: int) -> tuple[float, ...]:
    """Returns the second that Qwen3-VL and Qwen3.5 write before each temporal grid: the mean of its first and last frame's.

    Args:
        frame_seconds: When each chosen frame comes; the last one is repeated until they fill their grids.
        temporal_patch: Frames of a temporal grid.

    Source:
        `_calculate_timestamps` of transformers' Qwen3-VL processor.
    """
    num_missing = -len(frame_seconds) % temporal_patch
    seconds = [*frame_seconds, *[frame_seconds[-1]] * num_missing]
    firsts = range(0, len(seconds), temporal_patch)
    return tuple((seconds[first] + seconds[first + temporal_patch - 1]) / 2 for first in firsts)


def second_per_grid(
    num_frames: int, *, num_frames_total: int, avg_fps: float, temporal_patch: int, grid_seconds: GridSeconds
) -> float:
    """Returns the seconds from one temporal grid of Qwen2.5-VL to the next.

    Args:
        num_frames: Frames that were chosen, before the last one is repeated.
        num_frames_total: Frames of the whole clip.
        avg_fps: The clip's average frames per second.
        temporal_patch: Frames of a temporal grid.
        grid_seconds: See `GridSeconds`.

    Source:
        `second_per_grid_ts` of transformers' Qwen2.5-VL processor, with `fps` as qwen_vl_utils returns it.
    """
    seconds = temporal_patch / (num_frames / num_frames_total * avg_fps)
    return float(int(seconds)) if grid_seconds == "truncated" else seconds
