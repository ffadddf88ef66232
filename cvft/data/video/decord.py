"""Reads a clip with decord, by name only: for exact reproduction of runs that used it.

Its times and its frames are taken as they are, even where they are wrong: edit lists, open GOPs, MPEG-TS, AVI with
B-frames. It can loop for ever on some files; only a process of its own can be stopped then.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from cvft.data.video.reader import Frames, OnDuration, check_frame_size, check_num_frames, clip_error
from cvft.data.video.sample import Float32s


class DecordReader:
    """An open clip; see `cvft.data.video.reader.Reader`.

    Args:
        path: The clip, for messages.
        video: A `decord.VideoReader`.
    """

    def __init__(self, path: Path, video: Any) -> None:
        self._path = path
        self._video = video
        num_frames = len(video)
        check_num_frames(num_frames, path=path, decoder="decord")
        spans_s = video.get_frame_timestamp(np.arange(num_frames))
        self.timestamps_s: Float32s = np.ascontiguousarray(spans_s[:, 0], dtype=np.float32)
        self.duration_s = float(spans_s[:, 1].max())
        self.avg_fps = float(video.get_avg_fps())

    def read(self, frame_indices: Sequence[int]) -> Frames:
        """Returns the frames with these indices, uint8 `(len, H, W, 3)`."""
        frames: Frames = self._video.get_batch(list(frame_indices)).asnumpy()
        check_frame_size(frames.shape[2], frames.shape[1], path=self._path, decoder="decord")
        return frames


@contextmanager
def open_decord(path: Path, *, on_duration: OnDuration) -> Iterator[DecordReader]:
    """Opens a clip with decord.

    Args:
        path: A regular file.
        on_duration: Called with the clip's length before frames are decoded.

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
        # one decoding thread: more cost CPU time per clip and gain nothing beside other workers
        reader = DecordReader(path, decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1))
        if math.isfinite(reader.duration_s):
            on_duration(reader.duration_s)
        yield reader
    except (RuntimeError, decord.DECORDError) as error:
        # its messages are C++ stack traces whose first line holds what there is to know
        first_line = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        got = f"a file that it cannot decode ({first_line})"
        raise clip_error(path, decoder="decord", got=got, need="a video file", hint="try decoder `pyav`") from error
