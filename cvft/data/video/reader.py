"""What a decoder gives and what is refused of any clip: the part that `decode` and both decoders share.

open clip -> `Reader`: times of all frames, and `read` -> frames uint8 (T, H, W, 3)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from cvft.data.video.kinds import READ_KINDS, name_kind
from cvft.data.video.sample import Float32s, Float64s
from cvft.errors import ClipError, Problem, quote

MAX_FRAME_PX = 4096 * 2304 * 2
"""Larger frames are refused before decoding: a few hundred kilobytes can hold frames that fill the memory."""

MAX_NUM_FRAMES = 1_000_000
"""Clips with more frames are refused: nine hours at 30 frames per second."""

Frames = npt.NDArray[np.uint8]

MAX_ASPECT = 100
"""A frame that is longer than this many times its other side is refused: a model's resize to a fixed short side makes
gigabytes of it."""

_NUM_REFERENCE_FRAMES = 17
"""Frames that a decoder holds at most: 16 that others refer to, and the one in work."""

_DECODED_PX_PER_S = 300e6
"""What a slow core decodes, in pixels per second: more than fits into the time of a clip is refused before decoding.
Measured: 1080p H.264 at 466 million on one core of a shared machine."""

OnDuration = Callable[[float], float | None]
"""Called at most once, with the length in seconds that a container promises (0 when it promises none), before its frames
are decoded. Returns how many seconds decoding may take, or None for no limit."""


class TableChanged(Exception):
    """The decoder shows other frames than packets told of: a reader's times were replaced, choose again."""


class Reader(Protocol):
    """An open clip. Both decoders offer this, and nothing else is asked of them."""

    @property
    def timestamps_s(self) -> Float32s:
        """Start of every frame in seconds, in display order, shape `(N,)`."""

    @property
    def times_s(self) -> Float64s:
        """The same as exactly as the decoder tells it."""

    @property
    def avg_fps(self) -> float:
        """Average frames per second as `decord` counts it: the container's own figure."""

    @property
    def duration_s(self) -> float:
        """End of the last frame in seconds."""

    @property
    def size_px(self) -> tuple[int, int]:
        """Height and width of a frame as it is stored."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on the clip for the user, complete after `read`; the same words for every clip they apply to."""

    @property
    def is_turned(self) -> bool:
        """Whether pictures are stored otherwise than upright, complete after `read`."""

    def read(self, frame_indices: Sequence[int]) -> Frames:
        """Returns the frames with these ascending, distinct indices, uint8 `(len, H, W, 3)`.

        Raises `TableChanged` at most once, when they must be chosen again.
        """


def fits_rate(rate_fps: float, *, num_frames: int, duration_s: float) -> bool:
    """Tells whether frames come at a rate: but for one frame, or 2 % of them, so many fit into the time."""
    return abs(rate_fps * duration_s - num_frames) <= max(1, num_frames // 50)


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
    """Raises `ClipError` when a frame has more than `MAX_FRAME_PX` pixels, or one side is hardly there."""
    got = f"frames of {width_px} x {height_px} pixels"
    if width_px * height_px > MAX_FRAME_PX:
        need = f"at most {MAX_FRAME_PX:,} pixels"
        raise clip_error(
            path, decoder=decoder, got=got, need=need, hint="scale the clip down; the model sees 224 x 224"
        )
    if max(width_px, height_px) > MAX_ASPECT * max(1, min(width_px, height_px)):
        need = f"a long side of at most {MAX_ASPECT} times the short one"
        raise clip_error(path, decoder=decoder, got=got, need=need, hint="this is no picture that a model could see")


def check_work(num_frames: int, frame_px: int, *, allowed_s: float | None, path: Path, decoder: str) -> None:
    """Raises `ClipError` when decoding cannot be done in the time that a clip has, before it is begun.

    Args:
        num_frames: Frames to decode.
        frame_px: Pixels of each.
        allowed_s: Seconds that decoding may take; None for no limit.
        path: The clip, for the message.
        decoder: The decoder, for the message.
    """
    needed_s = num_frames * frame_px / _DECODED_PX_PER_S
    if allowed_s is not None and needed_s > allowed_s:
        got = f"about {needed_s:.0f} s of decoding ({num_frames:,} frames of {frame_px:,} pixels)"
        hint = "lower its frame size or rate, or allow more time (video.timeout_s)"
        raise clip_error(path, decoder=decoder, got=got, need=f"at most {allowed_s:.0f} s", hint=hint)


def check_memory(num_frames: int, size_px: tuple[int, int], *, limit_bytes: float, path: Path, decoder: str) -> None:
    """Raises `ClipError` when the chosen frames do not fit into the memory that a clip may take, before it is taken.

    Args:
        num_frames: Frames that are handed out.
        size_px: Height and width of each.
        limit_bytes: Memory that the clip may take.
        path: The clip, for the message.
        decoder: The decoder, for the message.
    """
    height_px, width_px = size_px
    num_bytes = (num_frames * 3 + _NUM_REFERENCE_FRAMES * 3) * height_px * width_px
    if num_bytes > limit_bytes:
        got = f"{num_frames} frames of {width_px} x {height_px} pixels, which need {num_bytes / 2**30:.1f} GiB"
        hint = "scale the clip down, lower video.max_frames, or allow more memory (video.memory_gib)"
        need = f"at most {limit_bytes / 2**30:g} GiB"
        raise clip_error(path, decoder=decoder, got=got, need=need, hint=hint)


def describe_non_clip(path: Path, *, decoder: str, reason: str) -> ClipError:
    """Builds the error of a file that a decoder does not open: what the file is, where its first bytes tell.

    Args:
        path: The file.
        decoder: The decoder.
        reason: The decoder's own words.
    """
    kind = name_kind(path)
    if kind is None:
        got = f"a file that it cannot decode ({reason})"
        hint = "the file is damaged or cut off, or not a video"
        return clip_error(path, decoder=decoder, got=got, need="a video file", hint=hint)
    if kind.is_clip:
        got, hint = f"{kind.name} that it cannot decode ({reason})", "the file is damaged or cut off; copy it again"
        return clip_error(path, decoder=decoder, got=got, need="a whole file", hint=hint)
    return clip_error(path, decoder=decoder, got=kind.name, need=READ_KINDS, hint=kind.hint)
