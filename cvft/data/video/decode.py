"""Joins a sampling rule and a decoder: clip file -> frames uint8 (T, H, W, 3) and timestamps float32 (T,) seconds.

The decoder is named, never chosen by what happens to work: a clip that it cannot decode is an error of that clip.
Refuses anything but a regular local file, and frames that are damaged, missing, too many or too large.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from cvft.data.video.sample import Float32s, Sampling, choose_frames
from cvft.data.video.truncation import count_missing_bytes
from cvft.errors import ClipError, Problem, did_you_mean, quote

DECODERS = ("pyav", "decord")
"""Names of the decoders. `pyav` is right on more containers and cannot hang; `decord` is for exact reproduction of runs
that used it, with its errors on edit lists and open GOPs."""

MAX_FRAME_PX = 4096 * 2304 * 2
"""Larger frames are refused before decoding: a few hundred kilobytes can hold frames that fill the memory."""

MAX_NUM_FRAMES = 1_000_000
"""Clips with more frames are refused: nine hours at 30 frames per second."""

_LATEST_S = 1e7
"""No clip is that long; decord gives such times, of either sign, where it could not find any."""

Frames = npt.NDArray[np.uint8]


@dataclass(frozen=True, repr=False, eq=False)
class Clip:
    """The chosen frames of one clip.

    Args:
        frames: RGB, uint8, shape `(T, H, W, 3)`, upright.
        timestamps_s: Start of each of them in seconds since the clip's first frame, float32, shape `(T,)`.
        frame_indices: Which frames of the clip they are, T integers.
        num_frames_total: Frames of the whole clip.
        avg_fps: Its average frames per second, as its container says.
        duration_s: Its length in seconds.
        decoder: Name of the decoder that made the frames.
    """

    frames: Frames
    timestamps_s: Float32s
    frame_indices: tuple[int, ...]
    num_frames_total: int
    avg_fps: float
    duration_s: float
    decoder: str

    def __repr__(self) -> str:
        return (
            f"Clip(frames={self.frames.dtype}{self.frames.shape}, num_frames_total={self.num_frames_total}, "
            f"avg_fps={self.avg_fps:.6g}, duration_s={self.duration_s:.6g}, decoder={self.decoder!r})"
        )


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


OnDuration = Callable[[float], None]
"""Called at most once, with the length in seconds that a container promises, before its frames are decoded."""


def decode_clip(
    path: Path | str, *, sampling: Sampling, decoder: str = "pyav", on_duration: OnDuration | None = None
) -> Clip:
    """Decodes the frames that a sampling rule chooses, in this process.

    Decoders are C code that reads untrusted files: use `cvft.data.video.process.DecodeProcess` where a hang or a crash
    must cost one clip only.

    Args:
        path: The clip.
        sampling: The rule.
        decoder: `pyav` or `decord`.
        on_duration: Called with the clip's length early, so that a caller can judge how long to wait.

    Returns:
        The frames that the rule chose, exactly those.

    Raises:
        ClipError: The file is not a clip that this decoder can read, or a chosen frame is damaged or missing.
    """
    path = Path(path)
    check_file(path, decoder=decoder)
    with _open_reader(path, decoder, on_duration or _ignore_duration) as reader:
        timestamps_s = reader.timestamps_s
        chosen = choose_frames(timestamps_s, avg_fps=reader.avg_fps, sampling=sampling)
        if not chosen or not (np.abs(timestamps_s) < _LATEST_S).all():
            got, hint = "no frame with a usable time", "try decoder `pyav`" if decoder != "pyav" else ""
            raise clip_error(path, decoder=decoder, got=got, need="frames with times of 0 s and later", hint=hint)
        distinct = sorted(set(chosen))
        frames = reader.read(distinct)
        if chosen != distinct:  # the rule itself repeats frames of a short clip; `coverage` reports it
            frames = frames[np.searchsorted(distinct, chosen)]
        return Clip(
            frames=frames,
            timestamps_s=timestamps_s[chosen],
            frame_indices=tuple(chosen),
            num_frames_total=len(timestamps_s),
            avg_fps=reader.avg_fps,
            duration_s=reader.duration_s,
            decoder=decoder,
        )


def clip_error(path: Path, *, decoder: str, got: str, need: str, hint: str = "") -> ClipError:
    """Builds the error of one clip, which names the file, what was found, what is needed and the decoder."""
    return ClipError(f"clip {path.name}", [Problem(f"{path} (decoder {quote(decoder)})", got, need, hint)])


def check_file(path: Path, *, decoder: str) -> None:
    """Refuses anything that is not a whole regular file with bytes in it, before a decoder sees its name.

    Args:
        path: The clip.
        decoder: The decoder that will read it, for the message.

    Raises:
        ClipError: It is absent, a folder, a pipe or a device, empty, cut off, or not readable; or the decoder is
            unknown.
    """
    if decoder not in DECODERS:
        need = " or ".join(quote(name) for name in DECODERS)
        raise clip_error(
            path, decoder=decoder, got="an unknown decoder", need=need, hint=did_you_mean(decoder, DECODERS)
        )
    need = "a video file"
    try:
        status = path.stat()
    except OSError as error:
        got = "no such file" if isinstance(error, FileNotFoundError) else f"a path that fails ({error.strerror})"
        raise clip_error(path, decoder=decoder, got=got, need=need) from error
    if stat.S_ISDIR(status.st_mode):
        raise clip_error(path, decoder=decoder, got="a folder", need=need)
    if not stat.S_ISREG(status.st_mode):
        raise clip_error(path, decoder=decoder, got="a pipe or a device", need="a regular video file")
    if status.st_size == 0:
        raise clip_error(path, decoder=decoder, got="an empty file (0 bytes)", need=need, hint="copy it again")
    if not os.access(path, os.R_OK):
        raise clip_error(path, decoder=decoder, got="a file without read permission", need=need)
    num_missing = count_missing_bytes(path)
    if num_missing:
        got = f"a file that was cut off (at least {num_missing:,} bytes are missing)"
        raise clip_error(path, decoder=decoder, got=got, need="a whole file", hint="copy or download it again")


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


def _open_reader(path: Path, decoder: str, on_duration: OnDuration) -> AbstractContextManager[Reader]:
    # imported here: each decoder loads large libraries, and only the named one is needed
    if decoder == "decord":
        from cvft.data.video.decord import open_decord

        return open_decord(path, on_duration=on_duration)
    from cvft.data.video.pyav import open_pyav

    return open_pyav(path, on_duration=on_duration)


def _ignore_duration(duration_s: float) -> None:
    del duration_s
