"""What a decoder gives and what is refused of any clip: the part that `decode` and both decoders share.

open clip -> `Reader`: times of all frames, and `read` -> frames uint8 (T, H, W, 3)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from cvft.data.video.sample import Float32s
from cvft.errors import ClipError, Problem, quote

MAX_FRAME_PX = 4096 * 2304 * 2
"""Larger frames are refused before decoding: a few hundred kilobytes can hold frames that fill the memory."""

MAX_NUM_FRAMES = 1_000_000
"""Clips with more frames are refused: nine hours at 30 frames per second."""

Frames = npt.NDArray[np.uint8]

OnDuration = Callable[[float], None]
"""Called at most once, with the length in seconds that a container promises, before its frames are decoded."""


class Reader(Protocol):
    """An open clip. Both decoders offer this, and nothing else is asked of them."""

    @property
    def timestamps_s(self) -> Float32s:
        """Start of every frame in seconds, in display order, shape `(N,)`."""

    @property
    def avg_fps(self) -> float:
        """Average frames per second as `decord` counts it: the container's own figure."""

    @property
    def duration_s(self) -> float:
        """End of the last frame in seconds."""

    def read(self, frame_indices: Sequence[int]) -> Frames:
        """Returns the frames with these ascending, distinct indices, uint8 `(len, H, W, 3)`."""


def clip_error(path: Path, *, decoder: str, got: str, need: str, hint: str = "") -> ClipError:
    """Builds the error of one clip, which names the file, what was found, what is needed and the decoder."""
    return ClipError(f"clip {path.name}", [Problem(f"{path} (decoder {quote(decoder)})", got, need, hint)])


def check_num_frames(num_frames: int, *, path: Path, decoder: str) -> None:
    """Raises `ClipError` when a clip has no frame, or more than `MAX_NUM_FRAMES`."""
    if num_frames == 0:
        hint = "the file was probably cut off while it was copied"
        raise clip_error(path, decoder=decoder, got="a video stream without frames", need="at least 1 frame", hint=hint)
    if num_frames > MAX_NUM_FRAMES:
        got, need = f"{num_frames:,} frames", f"at most {MAX_NUM_FRAMES:,}"
        raise clip_error(path, decoder=decoder, got=got, need=need, hint="cut the clip into shorter ones")


def check_frame_size(width_px: int, height_px: int, *, path: Path, decoder: str) -> None:
    """Raises `ClipError` when a frame has more than `MAX_FRAME_PX` pixels."""
    if width_px * height_px > MAX_FRAME_PX:
        got, need = f"frames of {width_px} x {height_px} pixels", f"at most {MAX_FRAME_PX:,} pixels"
        raise clip_error(
            path, decoder=decoder, got=got, need=need, hint="scale the clip down; the model sees 224 x 224"
        )
