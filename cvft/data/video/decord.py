"""Reads a clip with decord, by name only: for exact reproduction of runs that used it.

Its times and its frames are taken as they are, even where they are wrong: edit lists, open GOPs, MPEG-TS, AVI with
B-frames. It can loop for ever on some files; only a process of its own can be stopped then.
What it cannot show rightly at all is refused: cut clips, mirrored ones, HDR, and tables that are not the clip's.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cvft.data.video.pyav import PyAVReader, open_pyav
from cvft.data.video.reader import Frames, OnDuration, check_frame_size, check_num_frames, clip_error
from cvft.data.video.sample import Float32s
from cvft.data.video.spec import LATEST_S
from cvft.data.video.truncation import Ending
from cvft.errors import ClipError

_LARGEST_DIFFERENCE_S = 0.02
"""Half a frame of an ordinary clip: times that differ by more belong to other frames."""


class DecordReader:
    """An open clip; see `cvft.data.video.reader.Reader`.

    Args:
        path: The clip, for messages.
        video: A `decord.VideoReader`.
        true: The same clip, opened with PyAV.
    """

    def __init__(self, path: Path, video: Any, *, true: PyAVReader) -> None:
        self._path = path
        self._video = video
        self.notes = true.notes
        self.size_px = true.size_px
        self.is_turned = true.is_turned
        num_frames = len(video)
        check_num_frames(num_frames, path=path, decoder="decord")
        spans_s = video.get_frame_timestamp(np.arange(num_frames))
        self.timestamps_s: Float32s = np.ascontiguousarray(spans_s[:, 0], dtype=np.float32)
        self.times_s = self.timestamps_s.astype(np.float64)
        self.duration_s = float(spans_s[:, 1].max())
        self.avg_fps = float(video.get_avg_fps())
        if true.is_decoded and not self._agrees(true):
            got = f"{num_frames} frames in {self.duration_s:.2f} s"
            need = f"the {len(true.timestamps_s)} frames in {true.duration_s:.2f} s that the clip has"
            raise clip_error(path, decoder="decord", got=got, need=need, hint="try decoder `pyav`")

    def _agrees(self, true: PyAVReader) -> bool:
        """Tells whether it shows the clip's frames, each at its time."""
        ours, theirs = self.timestamps_s, true.timestamps_s
        if not (np.abs(ours) < LATEST_S).all():
            return True  # not even times: refused by whoever chooses frames
        return len(ours) == len(theirs) and bool(np.abs(ours - theirs).max() < _LARGEST_DIFFERENCE_S)

    def read(self, frame_indices: Sequence[int]) -> Frames:
        """Returns the frames with these indices, uint8 `(len, H, W, 3)`."""
        frames: Frames = self._video.get_batch(list(frame_indices)).asnumpy()
        check_frame_size(frames.shape[2], frames.shape[1], path=self._path, decoder="decord")
        return frames


@contextmanager
def open_decord(path: Path, *, on_duration: OnDuration, ending: Ending | None = None) -> Iterator[DecordReader]:
    """Opens a clip with decord.

    Args:
        path: A regular file.
        on_duration: Called with the clip's length before frames are decoded.
        ending: What the container states about its end; found when it is not given.

    Yields:
        The open clip.

    Raises:
        ClipError: decord is not installed, or it cannot read the clip.
    """
    try:
        decord = importlib.import_module("decord")
    except ImportError as error:
        need = "the decord package"
        raise clip_error(path, decoder="decord", got="no such package", need=need, hint="pip install decord") from error
    decord.logging.set_level(decord.logging.QUIET)
    try:
        with open_pyav(path, on_duration=on_duration, ending=ending) as true:
            true.check_plain(decoder="decord")
            # one decoding thread: more cost CPU time per clip and gain nothing beside other workers
            yield DecordReader(path, decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1), true=true)
    except ClipError as error:  # found by PyAV, and true for whoever decodes
        as_pyav, as_decord = "(decoder `pyav`)", "(decoder `decord`)"
        renamed = [replace(problem, where=problem.where.replace(as_pyav, as_decord)) for problem in error.problems]
        raise ClipError(error.subject, renamed) from error
    except (RuntimeError, decord.DECORDError) as error:
        # its messages are C++ stack traces whose first line holds what there is to know
        first_line = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        got = f"a file that it cannot decode ({first_line})"
        raise clip_error(path, decoder="decord", got=got, need="a video file", hint="try decoder `pyav`") from error
