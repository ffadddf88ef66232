"""Loads clips for training and evaluation: decoded in a process of their own, prepared once, cached while there is room.

clip -> DecodeProcess -> Clip: frames uint8 (T, H, W, 3) -> `prepare` (of a model family) -> `RecentClips`

Several questions about one clip come one after another, and every epoch again; what fits in memory is decoded once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from cvft.data.video.decode import Clip
from cvft.data.video.process import DecodeProcess
from cvft.data.video.sample import Sampling
from cvft.data.video.spec import ClipRef

T = TypeVar("T")

DEFAULT_CACHE_BYTES = 512 << 20
"""Prepared clips cached per process: about 36 of 24 frames at 224 px."""


@dataclass(frozen=True)
class DecodeSettings:
    """How clips become frames.

    Args:
        sampling: Which frames are taken.
        decoder: Library that decodes.
        timeout_s: Seconds that a clip may take.
        memory_gib: Address space that decoding may take.
    """

    sampling: Sampling
    decoder: str = "pyav"
    timeout_s: float = 60.0
    memory_gib: float = 4.0

    @classmethod
    def of(
        cls,
        strategy: str,
        *,
        max_frames: int,
        decoder: str,
        fps: float | None = None,
        min_frames: int | None = None,
        timeout_s: float = 60.0,
        memory_gib: float = 4.0,
    ) -> DecodeSettings:
        """Builds the settings from the names that plans and contracts store."""
        sampling = Sampling(cast(Any, strategy), max_frames, fps, min_frames)
        return cls(sampling, decoder=decoder, timeout_s=timeout_s, memory_gib=memory_gib)

    def decode(self, process: DecodeProcess, clip: ClipRef) -> Clip:
        """Decodes a clip in a process of `make_process`.

        Raises:
            ClipError: when it cannot be decoded.
        """
        return process.decode(clip, sampling=self.sampling, decoder=self.decoder)

    def make_process(self, *, niceness: int = 0) -> DecodeProcess:
        """Returns a decode process with these limits, not started yet; see there for `niceness`."""
        return DecodeProcess(timeout_s=self.timeout_s, memory_limit_gib=self.memory_gib, niceness=niceness)


class RecentClips(Generic[T]):
    """What was made of clips lately; the least recently used ones make room.

    Args:
        make: Makes it of a clip.
        num_bytes: Size of what was made, in bytes.
        cache_bytes: Most bytes cached.
    """

    def __init__(
        self,
        make: Callable[[ClipRef], T],
        *,
        num_bytes: Callable[[T], int],
        cache_bytes: int = DEFAULT_CACHE_BYTES,
    ) -> None:
        self._make = make
        self._count_bytes = num_bytes
        self._cache_bytes = cache_bytes
        self._cached: OrderedDict[ClipRef, T] = OrderedDict()
        self._num_cached_bytes = 0

    def load(self, clip: ClipRef) -> T:
        """Returns what is made of one clip; raises what making it raises."""
        if clip in self._cached:
            self._cached.move_to_end(clip)
            return self._cached[clip]
        made = self._cached[clip] = self._make(clip)
        self._num_cached_bytes += self._count_bytes(made)
        while self._num_cached_bytes > self._cache_bytes and len(self._cached) > 1:
            _, dropped = self._cached.popitem(last=False)
            self._num_cached_bytes -= self._count_bytes(dropped)
        return made


class ClipLoader(Generic[T]):
    """Clip in, prepared clip out.

    Args:
        settings: How to decode.
        prepare: Turns a decoded clip into what is cached.
        num_bytes: See `RecentClips`.
        cache_bytes: Most bytes cached.
    """

    def __init__(
        self,
        settings: DecodeSettings,
        *,
        prepare: Callable[[ClipRef, Clip], T],
        num_bytes: Callable[[T], int],
        cache_bytes: int = DEFAULT_CACHE_BYTES,
    ) -> None:
        self._settings = settings
        self._prepare = prepare
        self._process = settings.make_process()
        self._recent = RecentClips(self._decode, num_bytes=num_bytes, cache_bytes=cache_bytes)

    def load(self, clip: ClipRef) -> T:
        """Returns what `prepare` made of one clip.

        Raises:
            ClipError: when it cannot be decoded.
        """
        return self._recent.load(clip)

    def _decode(self, clip: ClipRef) -> T:
        return self._prepare(clip, self._settings.decode(self._process, clip))

    def close(self) -> None:
        """Ends the decode process; it starts again when it is needed."""
        self._process.close()
