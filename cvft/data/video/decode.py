"""Joins a sampling rule and a decoder: clip -> frames uint8 (T, H, W, 3) and timestamps float32 (T,) seconds.

The decoder is named, never chosen by what happens to work: a clip that it cannot decode is an error of that clip.
Refuses anything but a regular local file, and frames that are damaged, missing, too many or too large.
"""

from __future__ import annotations

import math
import os
import stat
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cvft.data.video.decord import open_decord
from cvft.data.video.oddities import Oddity, find_odd_times
from cvft.data.video.pyav import open_pyav
from cvft.data.video.reader import Frames, OnDuration, Reader, TableChanged, check_memory, clip_error
from cvft.data.video.ready import ReadyFrames
from cvft.data.video.sample import Float32s, Sampling, choose_frames
from cvft.data.video.spec import LATEST_S, ClipRef, ClipSpec, file_of, has_own_times, is_image, is_stretch, sampling_for
from cvft.data.video.stretch import StretchReader
from cvft.data.video.truncation import Ending, find_ending
from cvft.data.video.view import ClipView
from cvft.errors import ValueProblem, did_you_mean, quote

DECODERS = ("pyav", "decord")
"""Names of the decoders. `pyav` is right on more containers and cannot hang; `decord` is for exact reproduction of runs
that used it, with its errors on edit lists and open GOPs."""

_IMPOSSIBLE_BYTES = 1 << 42
"""A clip that lacks this many bytes has a damaged size, not a missing end."""


@dataclass(frozen=True, repr=False, eq=False)
class Clip:
    """The chosen frames of one clip.

    Args:
        frames: RGB, uint8, shape `(T, H, W, 3)`, upright.
        timestamps_s: Start of each of them in seconds since the clip's first frame, float32, shape `(T,)`.
        frame_indices: Which frames of the clip they are, T integers.
        num_frames_total: Frames of the whole clip; of a stretch, its own, as of all that follows.
        avg_fps: Its average frames per second, as its container says.
        duration_s: Its length in seconds.
        decoder: Name of the decoder that made the frames.
        notes: Sentences on the clip for the user: the same words for every clip that they apply to.
        oddities: What is odd about its times, and whether its pictures were turned; what they show is not looked at.
        has_own_times: Whether its seconds are those that a row states of ready frames.
        is_image: Whether it is a picture that a model takes as an image.
    """

    frames: Frames
    timestamps_s: Float32s
    frame_indices: tuple[int, ...]
    num_frames_total: int
    avg_fps: float
    duration_s: float
    decoder: str
    notes: tuple[str, ...] = ()
    oddities: tuple[Oddity, ...] = ()
    has_own_times: bool = False
    is_image: bool = False

    @property
    def view(self) -> ClipView:
        """What of the clip is shown."""
        return ClipView(
            timestamps_s=tuple(self.timestamps_s.tolist()),
            frame_indices=self.frame_indices,
            num_frames_total=self.num_frames_total,
            avg_fps=self.avg_fps,
            height_px=self.frames.shape[1],
            width_px=self.frames.shape[2],
            has_own_times=self.has_own_times,
            is_image=self.is_image,
        )

    def __repr__(self) -> str:
        return (
            f"Clip(frames={self.frames.dtype}{self.frames.shape}, num_frames_total={self.num_frames_total}, "
            f"avg_fps={self.avg_fps:.6g}, duration_s={self.duration_s:.6g}, decoder={self.decoder!r})"
        )


def decode_clip(
    clip: ClipRef | str,
    *,
    sampling: Sampling,
    decoder: str = "pyav",
    on_duration: OnDuration | None = None,
    memory_gib: float = math.inf,
) -> Clip:
    """Decodes the frames that a sampling rule chooses, in this process.

    Decoders are C code that reads untrusted files: use `cvft.data.video.process.DecodeProcess` where a hang or a crash
    must cost one clip only.

    Args:
        clip: The clip; a stretch is read from the key frame before it on, where the container tells which frames it has.
        sampling: The rule.
        decoder: `pyav` or `decord`.
        on_duration: Called with the file's length early, so that a caller can judge how long to wait; says how long.
        memory_gib: Memory that the clip may take; more is refused before it is taken.

    Returns:
        The frames that the rule chose, exactly those.

    Raises:
        ClipError: The file is not a clip that this decoder can read, was cut off, or asks for more time or memory than
            it may take; it lacks the stretch; or a chosen frame is damaged or missing.
    """
    clip = Path(clip) if isinstance(clip, str) else clip
    path = file_of(clip)
    with _open_reader(clip, decoder, on_duration or _ignore_duration) as whole:
        reader = _take_stretch(whole, clip, decoder=decoder)
        try:
            sampling = sampling_for(clip, sampling)
        except ValueProblem as problem:
            raise clip_error(path, decoder=decoder, got=problem.got, need=problem.need, hint=problem.hint) from problem
        chosen, distinct = _choose(reader, sampling, path=path, decoder=decoder)
        limit_bytes = memory_gib * 2**30
        check_memory(len(distinct), reader.size_px, limit_bytes=limit_bytes, path=path, decoder=decoder)
        try:
            frames = reader.read(distinct)
        except TableChanged:
            chosen, distinct = _choose(reader, sampling, path=path, decoder=decoder)
            frames = reader.read(distinct)
        if chosen != distinct:  # the rule itself repeats frames of a short clip; `coverage` reports it
            frames = frames[np.searchsorted(distinct, chosen)]
        return Clip(
            frames=frames,
            timestamps_s=reader.timestamps_s[chosen],
            frame_indices=tuple(chosen),
            num_frames_total=len(reader.timestamps_s),
            avg_fps=reader.avg_fps,
            duration_s=reader.duration_s,
            decoder=decoder,
            notes=reader.notes,
            oddities=(
                *find_odd_times(reader.timestamps_s),
                *([Oddity("turned", "pictures stored on their side or head")] * reader.is_turned),
            ),
            has_own_times=has_own_times(clip),
            is_image=is_image(clip),
        )


def _take_stretch(reader: Reader, clip: ClipRef, *, decoder: str) -> Reader:
    if not isinstance(clip, ClipSpec) or not is_stretch(clip):
        return reader
    _refuse_odd_times(reader.timestamps_s, path=clip.path, decoder=decoder)
    return StretchReader(reader, start_s=clip.start_s, end_s=clip.end_s, path=clip.path, decoder=decoder)


def _choose(reader: Reader, sampling: Sampling, *, path: Path, decoder: str) -> tuple[list[int], list[int]]:
    """Returns the chosen frames, and each of them once, in order."""
    timestamps_s = reader.timestamps_s
    _refuse_odd_times(timestamps_s, path=path, decoder=decoder)
    chosen = choose_frames(timestamps_s, avg_fps=reader.avg_fps, sampling=sampling)
    return chosen, sorted(set(chosen))


def _refuse_odd_times(timestamps_s: Float32s, *, path: Path, decoder: str) -> None:
    if not (np.abs(timestamps_s) < LATEST_S).all() or timestamps_s.max() < -0.5:  # no frame is near second 0
        got, hint = "no frame with a usable time", "try decoder `pyav`" if decoder != "pyav" else ""
        raise clip_error(path, decoder=decoder, got=got, need="frames with times of 0 s and later", hint=hint)


def check_file(path: Path, *, decoder: str) -> Ending:
    """Refuses anything that is not a whole regular file with bytes in it, before a decoder sees its name.

    Args:
        path: The clip.
        decoder: The decoder that will read it, for the message.

    Returns:
        What its container states about its end.

    Raises:
        ClipError: As `_check_regular`, or it was cut off; or the decoder is unknown.
    """
    if decoder not in DECODERS:
        need = " or ".join(quote(name) for name in DECODERS)
        raise clip_error(
            path, decoder=decoder, got="an unknown decoder", need=need, hint=did_you_mean(decoder, DECODERS)
        )
    num_bytes = _check_regular(path, decoder=decoder, need="a video file")
    ending = find_ending(path)
    if ending.num_missing > _IMPOSSIBLE_BYTES:
        got = f"a container that states an impossible size ({ending.num_missing + num_bytes:,} bytes)"
        hint = "the file is damaged; copy or download it again"
        raise clip_error(path, decoder=decoder, got=got, need="a whole file", hint=hint)
    if ending.num_missing:
        got = f"a file that was cut off (at least {ending.num_missing:,} bytes are missing)"
        raise clip_error(path, decoder=decoder, got=got, need="a whole file", hint="copy or download it again")
    return ending


def _check_regular(path: Path, *, decoder: str, need: str) -> int:
    """Returns the size of a regular file, in bytes.

    Raises:
        ClipError: It is absent, a folder, a pipe or a device, empty, or not readable.
    """
    try:
        status = path.stat()
    except OSError as error:
        got = "no such file" if isinstance(error, FileNotFoundError) else f"a path that fails ({error.strerror})"
        raise clip_error(path, decoder=decoder, got=got, need=need) from error
    if stat.S_ISDIR(status.st_mode):
        raise clip_error(path, decoder=decoder, got="a folder", need=need)
    if not stat.S_ISREG(status.st_mode):
        raise clip_error(path, decoder=decoder, got="a pipe or a device", need=need.replace("a ", "a regular ", 1))
    if status.st_size == 0:
        raise clip_error(path, decoder=decoder, got="an empty file (0 bytes)", need=need, hint="copy it again")
    if not os.access(path, os.R_OK):
        raise clip_error(path, decoder=decoder, got="a file without read permission", need=need)
    return status.st_size


def _open_reader(clip: ClipRef, decoder: str, on_duration: OnDuration) -> AbstractContextManager[Reader]:
    if isinstance(clip, ClipSpec) and clip.frames:
        for frame in clip.frames:
            _check_regular(frame, decoder=decoder, need="a picture")
        return nullcontext(ReadyFrames(clip.frames, clip.seconds, decoder=decoder))
    path = file_of(clip)
    ending = check_file(path, decoder=decoder)
    open_reader = open_decord if decoder == "decord" else open_pyav
    return open_reader(path, on_duration=on_duration, ending=ending)


def _ignore_duration(duration_s: float) -> None:
    del duration_s
