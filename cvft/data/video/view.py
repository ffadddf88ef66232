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
        has_own_times: Whether the seconds are those that a row states of ready frames.
        is_image: Whether it is a picture that a model takes as an image, and not as a clip of one frame.
    """

    timestamps_s: tuple[float, ...]
    frame_indices: tuple[int, ...] = ()
    num_frames_total: int = 0
    avg_fps: float = 0.0
    height_px: int = 0
    width_px: int = 0
    has_own_times: bool = False
    is_image: bool = False

    @property
    def counted_s(self) -> tuple[float, ...]:
        """When each frame comes, as makers count it: its number over the average rate; seconds that a row states, as stated."""
        if self.has_own_times:
            return self.timestamps_s
        return tuple(index / self.avg_fps for index in self.frame_indices)
