"""What of a clip a model is shown: which frames, when they come, how large they are. Facts alone, no frame."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ClipView:
    """The frames that a sampling rule chose of one clip.

    Args:
        timestamps_s: Start of each in seconds since the clip's first frame, T numbers; that of a stretch is its own first.
        frame_indices: Which frames of the clip they are, counted from that, T integers; empty in what older runs recorded.
        num_frames_total: Frames of the whole clip; 0 in what older runs recorded, like the rest.
        avg_fps: Its average frames per second, as its container says.
        height_px: Height of each, upright.
        width_px: Width of each, upright.
    """

    timestamps_s: tuple[float, ...]
    frame_indices: tuple[int, ...] = ()
    num_frames_total: int = 0
    avg_fps: float = 0.0
    height_px: int = 0
    width_px: int = 0
