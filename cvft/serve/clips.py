"""Clips for several requests at a time: a few decode processes that anyone may borrow, and what was made of a clip kept a while.

clip -> a decode process that is free -> frames -> the model's inputs (kept), or small pictures with their seconds
"""

from __future__ import annotations

import base64
import queue
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cvft.clips.source import ClipInputs
from cvft.data.video.loader import DEFAULT_CACHE_BYTES, DecodeSettings
from cvft.data.video.process import DecodeProcess
from cvft.data.video.sample import coverage
from cvft.data.video.spec import ClipRef, sampling_for
from cvft.families.runtime import Encoder
from cvft.report.frames import to_webp

NUM_DECODERS = 2
"""Clips decoded at a time: one that hangs until its time is over does not keep the next one waiting."""

NICENESS = 10
"""Of decode processes: answers that run come before clips that are read ahead, where both want the same cores."""


class DecodePool:
    """Decode processes for several threads, each started when it is first needed.

    Args:
        decode: Their limits.
        count: How many.
    """

    def __init__(self, decode: DecodeSettings, *, count: int = NUM_DECODERS) -> None:
        self._all = [decode.make_process(niceness=NICENESS) for _ in range(count)]
        self._free: queue.SimpleQueue[DecodeProcess] = queue.SimpleQueue()
        for process in self._all:
            self._free.put(process)

    @contextmanager
    def borrow(self) -> Iterator[DecodeProcess]:
        """Waits for a process, and takes it back."""
        process = self._free.get()
        try:
            yield process
        finally:
            self._free.put(process)

    def close(self) -> None:
        """Ends all processes; a clip that is being decoded fails."""
        for process in self._all:
            process.close()


class SharedClips:
    """Clips as one model is shown them; see `cvft.clips.source.ClipSource`. Safe to use from several threads.

    Args:
        pool: What decodes.
        encoder: Turns frames into the model's inputs.
        decode: Which frames of a clip.
        cache_bytes: Most bytes of inputs kept.
    """

    def __init__(
        self, pool: DecodePool, encoder: Encoder, decode: DecodeSettings, *, cache_bytes: int = DEFAULT_CACHE_BYTES
    ) -> None:
        self.cut: dict[ClipRef, str] = {}
        self._pool = pool
        self._encoder = encoder
        self._decode = decode
        self._room = cache_bytes
        self._kept: OrderedDict[ClipRef, ClipInputs] = OrderedDict()
        self._num_kept_bytes = 0
        self._lock = threading.Lock()

    def load(self, clip: ClipRef) -> ClipInputs:
        """Returns a clip's inputs.

        Raises:
            ClipError: when it cannot be decoded.
        """
        with self._lock:
            if clip in self._kept:
                self._kept.move_to_end(clip)
                return self._kept[clip]
        with self._pool.borrow() as process:
            decoded = process.decode(clip, sampling=self._decode.sampling, decoder=self._decode.decoder)
        made = ClipInputs(self._encoder.clip(decoded), decoded.view)
        with self._lock:
            if clip in self._kept:  # two requests decoded it at the same time
                return self._kept[clip]
            self._kept[clip] = made
            self._num_kept_bytes += _num_bytes(made)
            while len(self._kept) > 1 and self._num_kept_bytes > self._room:
                _, dropped = self._kept.popitem(last=False)
                self._num_kept_bytes -= _num_bytes(dropped)
        return made

    def pictures(self, asked: ClipRef) -> dict[str, Any]:
        """Returns what the model is shown of a clip, for people.

        Args:
            asked: The clip.

        Returns:
            `frames`: second and picture (a data URL) of each, in order; `duration_s`; `notes`: sentences on what is not shown.

        Raises:
            ClipError: when it cannot be decoded.
        """
        with self._pool.borrow() as process:
            clip = process.decode(asked, sampling=self._decode.sampling, decoder=self._decode.decoder)
        seen = coverage(
            clip.frame_indices,
            num_frames_total=clip.num_frames_total,
            avg_fps=clip.avg_fps,
            duration_s=clip.duration_s,
            sampling=sampling_for(asked, self._decode.sampling),
        )
        frames = [
            {
                "second": round(float(second), 2),
                "picture": f"data:image/webp;base64,{base64.b64encode(to_webp(frame)).decode('ascii')}",
            }
            for second, frame in zip(clip.timestamps_s, clip.frames, strict=True)
        ]
        return {"frames": frames, "duration_s": round(clip.duration_s, 2), "notes": [*seen.notes, *clip.notes]}

    def close(self) -> None:
        """Nothing of its own runs: the pool belongs to whoever made it."""


def _num_bytes(clip: ClipInputs) -> int:
    return sum(tensor.nbytes for tensor in clip.tensors.values())
