"""A stretch of an open clip, as a clip of its own: a reader of the whole file -> a reader of some of its frames.

Nothing but the frames that are asked for is decoded: where packets tell which frames a file has, from the key frame before them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cvft.data.video.reader import Frames, Reader, TableChanged, clip_error, fits_rate
from cvft.data.video.sample import Float32s


class StretchReader:
    """The frames of a clip from one second to another; see `cvft.data.video.reader.Reader`.

    Args:
        reader: The whole file.
        start_s: Frames that start earlier are left out, in seconds since the file's first; None for no limit.
        end_s: Frames that start then or later are left out; None for no limit.
        path: The file, for messages.
        decoder: The decoder, for messages.

    Raises:
        ClipError: The stretch lies outside the file, or no frame starts in it.
    """

    def __init__(self, reader: Reader, *, start_s: float | None, end_s: float | None, path: Path, decoder: str) -> None:
        self._reader = reader
        self._start_s = start_s or 0.0
        self._end_s = end_s
        self._path = path
        self._decoder = decoder
        self._find()

    @property
    def size_px(self) -> tuple[int, int]:
        """Height and width of a frame as it is stored."""
        return self._reader.size_px

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on the file for the user, complete after `read`."""
        return self._reader.notes

    @property
    def is_turned(self) -> bool:
        """Whether pictures are stored otherwise than upright, complete after `read`."""
        return self._reader.is_turned

    def read(self, frame_indices: Sequence[int]) -> Frames:
        """Returns the frames with these ascending, distinct indices, counted from the first of the stretch.

        Raises:
            TableChanged: as the file's own reader.
        """
        try:
            return self._reader.read([self._first + index for index in frame_indices])
        except TableChanged:
            self._find()
            raise

    def _find(self) -> None:
        reader, end_s = self._reader, math.inf if self._end_s is None else self._end_s
        # a stretch may end with the last second that has begun: 31 of 30.4 s, but not 32
        if self._start_s >= reader.duration_s or (self._end_s is not None and end_s > math.ceil(reader.duration_s)):
            got = f"the stretch {self._name()} of {reader.duration_s:.2f} s"
            raise self._refuse(got, "seconds that the file has")
        # in the precision of the times that sampling rules are fed with: 5.005 typed is frame 120 at 23.976 per second
        first, last = np.searchsorted(reader.timestamps_s, np.array([self._start_s, end_s], dtype=np.float32))
        if first == last:
            raise self._refuse(f"no frame that starts in the stretch {self._name()}", "at least one")
        self._first = int(first)
        times_s = reader.times_s[first:last]
        self.times_s = times_s - times_s[0]
        self.timestamps_s: Float32s = self.times_s.astype(np.float32)
        shown_until_s = float(reader.times_s[last]) if last < len(reader.times_s) else reader.duration_s
        self.duration_s = min(shown_until_s, end_s) - float(times_s[0])
        num_frames = len(times_s)
        is_even = fits_rate(reader.avg_fps, num_frames=num_frames, duration_s=self.duration_s)
        self.avg_fps = reader.avg_fps if is_even else num_frames / self.duration_s

    def _name(self) -> str:
        return f"{self._start_s:g} s to {'its end' if self._end_s is None else f'{self._end_s:g} s'}"

    def _refuse(self, got: str, need: str) -> Exception:
        hint = "`start` and `end` count seconds from the first frame of the file"
        return clip_error(self._path, decoder=self._decoder, got=got, need=need, hint=hint)
