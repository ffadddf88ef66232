"""Reads a clip with PyAV: a table of frame times from packets, then only the wanted frames.

    mp4, mov, mkv, webm:  packets -> sorted times -> seek to the key frame before each wanted frame, skip what no
                          wanted frame needs, convert the wanted ones
    other containers:     decode all frames in order, twice: once for the table, once for the wanted frames

Pixels equal decord's bit for bit on 8-bit 4:2:0 clips with even sizes. Refuses containers that may name other files
(playlists), damaged frames, and a wanted frame that does not come out: nothing is repeated in its place.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from cvft.data.video.reader import Frames, OnDuration, check_frame_size, check_num_frames, clip_error
from cvft.data.video.sample import Float32s

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.codeccontext import VideoCodecContext
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

_INDEXED_FORMATS = frozenset({"mov", "mp4", "m4a", "3gp", "3g2", "mj2", "matroska", "webm"})
"""Containers whose packets carry trustworthy times and that seek to key frames exactly."""

_FORMATS = (*sorted(_INDEXED_FORMATS), "avi", "mpegts", "mpeg", "flv", "asf", "gif")
"""Containers that are opened at all. Playlists and the like, which make FFmpeg read other files, are not among them."""

_OPEN_OPTIONS = {"format_whitelist": ",".join(_FORMATS), "protocol_whitelist": "file"}

_ATTACHED_PICTURE = 1 << 10
"""FFmpeg's AV_DISPOSITION_ATTACHED_PIC: cover art of an audio file."""


@dataclass(frozen=True)
class _Index:
    """Frame i of the clip has the time `pts[i]` (None: known by its position only) and starts at `timestamps_s[i]`."""

    pts: tuple[int | None, ...]
    keys: tuple[int, ...]
    timestamps_s: Float32s
    duration_s: float
    is_sequential: bool
    suspects: frozenset[int] = frozenset()


class PyAVReader:
    """An open clip; see `cvft.data.video.reader.Reader`.

    Args:
        path: The clip.
        container: The open container; whoever opened it closes it.
    """

    def __init__(self, path: Path, container: InputContainer) -> None:
        self._path = path
        self._container = container
        self._stream = _find_stream(container, path)
        rate = self._stream.average_rate
        index = _index_packets(container, self._stream, path)
        if index is None:
            with _open_container(path) as again:
                index = _index_by_decoding(again, path)
        self._index = index
        self.timestamps_s = index.timestamps_s
        self.duration_s = index.duration_s
        self.avg_fps = float(rate) if rate else len(index.pts) / index.duration_s

    def read(self, frame_indices: Sequence[int]) -> Frames:
        """Returns the frames with these ascending, distinct indices, uint8 `(len, H, W, 3)`.

        Raises:
            ClipError: One of them is damaged or does not come out of the decoder.
        """
        index = self._index
        slots = {frame: slot for slot, frame in enumerate(frame_indices)}
        collector = _Collector(self._path, self.timestamps_s, slots)
        if index.is_sequential:
            with _open_container(self._path) as container:
                for frame_index, (frame, _) in enumerate(_decode_all(container, self._path)):
                    if frame_index in slots:
                        collector.add(frame_index, frame, is_suspect=frame_index in index.suspects)
                    if collector.is_complete():
                        break
            return collector.finish()
        self._read_by_seeking(collector)
        if not collector.is_complete():
            # the container's key frames or reference flags were wrong: without them every frame comes out
            frame_of = {pts: frame_index for frame_index, pts in enumerate(index.pts)}
            with _open_container(self._path) as container:
                for frame, is_suspect in _decode_all(container, self._path):
                    frame_index = frame_of.get(frame.pts, -1)
                    if frame_index in collector.missing():
                        collector.add(frame_index, frame, is_suspect=is_suspect)
                    if collector.is_complete():
                        break
        return collector.finish()

    def _read_by_seeking(self, collector: _Collector) -> None:
        """Decodes from the key frame before each wanted frame, without the frames that no other frame refers to."""
        import av

        pts, keys = self._index.pts, np.asarray(self._index.keys)
        groups: dict[int, dict[int, int]] = {}
        for frame_index in sorted(collector.missing()):
            frame_pts = pts[frame_index]
            assert frame_pts is not None, "indexed clips have a time for every frame"
            group = int(np.searchsorted(keys, frame_pts, side="right")) - 1
            groups.setdefault(int(keys[max(group, 0)]), {})[frame_pts] = frame_index
        codec = self._stream.codec_context
        for key_pts, wanted in groups.items():
            self._container.seek(key_pts, backward=True, stream=self._stream)
            is_suspect = False
            for packet in self._container.demux(self._stream):
                codec.skip_frame = "DEFAULT" if packet.pts in wanted else "NONREF"
                try:
                    frames = packet.decode()
                except av.error.InvalidDataError:
                    is_suspect = True
                    continue
                for frame in frames:
                    is_suspect = frame.is_corrupt or (is_suspect and not frame.key_frame)
                    if frame.pts in wanted:
                        collector.add(wanted.pop(frame.pts), frame, is_suspect=is_suspect)
                if not wanted:
                    break
        codec.skip_frame = "DEFAULT"


class _Collector:
    """Converts wanted frames into one array, and refuses to hand it out until each is there.

    Args:
        path: The clip, for messages.
        timestamps_s: Start of every frame of the clip, for messages.
        slots: Frame index -> its position in the array.
    """

    def __init__(self, path: Path, timestamps_s: Float32s, slots: Mapping[int, int]) -> None:
        self._path = path
        self._timestamps_s = timestamps_s
        self._slots = dict(slots)
        self._num_wanted = len(slots)
        self._array: Frames | None = None
        self._converter = _RGBConverter(path)

    def add(self, frame_index: int, frame: VideoFrame, *, is_suspect: bool) -> None:
        if is_suspect:
            got = f"a damaged frame at {self._timestamps_s[frame_index]:.2f} s"
            hint = "copy or download the clip again"
            raise clip_error(self._path, decoder="pyav", got=got, need="frames without damage", hint=hint)
        image = self._converter.convert(frame)
        if self._array is None:
            self._array = np.empty((self._num_wanted, *image.shape), dtype=np.uint8)
        if image.shape != self._array.shape[1:]:
            (old_height, old_width, _), (height, width, _) = self._array.shape[1:], image.shape
            got = f"frames of {old_width} x {old_height} and of {width} x {height} pixels"
            raise clip_error(self._path, decoder="pyav", got=got, need="one size", hint="re-encode the clip")
        self._array[self._slots.pop(frame_index)] = image

    def missing(self) -> set[int]:
        return set(self._slots)

    def is_complete(self) -> bool:
        return not self._slots

    def finish(self) -> Frames:
        if self._array is None or self._slots:
            first = min(self._slots)
            got = f"no frame at {self._timestamps_s[first]:.2f} s"
            need = f"each of the {self._num_wanted} chosen frames"
            raise clip_error(self._path, decoder="pyav", got=got, need=need, hint="re-encode the clip")
        return self._array


class _RGBConverter:
    """Converts frames to upright RGB through FFmpeg's own filters, whose pixels decord has too.

    `VideoFrame.to_ndarray` takes another path, which differs on interlaced and 10-bit clips.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._made_for: tuple[object, ...] = ()

    def convert(self, frame: VideoFrame) -> Frames:
        import av

        check_frame_size(frame.width, frame.height, path=self._path, decoder="pyav")
        made_for = (frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range)
        if made_for != self._made_for:
            graph = av.filter.Graph()
            graph.threads = 1
            graph.link_nodes(
                graph.add_buffer(
                    width=frame.width,
                    height=frame.height,
                    format=frame.format,
                    time_base=frame.time_base or Fraction(1, 1000),
                ),
                graph.add("scale", "flags=bicubic"),
                graph.add("format", "rgb24"),
                graph.add("buffersink"),
            ).configure()
            self._graph, self._made_for = graph, made_for
        rotation_deg = frame.rotation
        self._graph.vpush(frame)
        image = cast(Frames, self._graph.vpull().to_ndarray())
        if rotation_deg % 90:
            got, need = f"frames rotated by {rotation_deg} degrees", "a multiple of 90 degrees"
            raise clip_error(self._path, decoder="pyav", got=got, need=need, hint="re-encode the clip")
        return np.rot90(image, rotation_deg // 90) if rotation_deg else image


@contextmanager
def open_pyav(path: Path, *, on_duration: OnDuration) -> Iterator[PyAVReader]:
    """Opens a clip with PyAV, and closes it: an open container keeps memory and threads until collected.

    Args:
        path: A regular file.
        on_duration: Called with the length that the container promises, if any, before anything is decoded.

    Yields:
        The open clip.

    Raises:
        ClipError: It is not a clip that FFmpeg can read, or PyAV is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise clip_error(
            path, decoder="pyav", got="no such package", need="the av package", hint="pip install 'av>=17.1'"
        ) from error
    try:
        with _open_container(path) as container:
            if container.duration:
                on_duration(container.duration / av.time_base)
            yield PyAVReader(path, container)
    except av.error.MemoryError as error:
        raise MemoryError(str(error)) from error  # of this process, not of the clip alone
    except av.error.FFmpegError as error:
        hint = "the file is damaged or cut off, or not a video" if isinstance(error, av.error.InvalidDataError) else ""
        got = f"a file that it cannot decode ({error.strerror})"
        raise clip_error(path, decoder="pyav", got=got, need="a video file", hint=hint) from error


@contextmanager
def _open_container(path: Path) -> Iterator[InputContainer]:
    import av

    # absolute: a name with a colon is then no protocol. Titles in another encoding are no reason to refuse a clip.
    name = str(path.absolute())
    with av.open(name, mode="r", options=dict(_OPEN_OPTIONS), metadata_errors="replace") as container:
        yield container


def _find_stream(container: InputContainer, path: Path) -> VideoStream:
    stream = cast("VideoStream | None", container.streams.best("video"))
    if stream is None or stream.disposition.value & _ATTACHED_PICTURE:
        found = sorted({other.type for other in container.streams if other is not stream})
        got = f"no video stream, only {', '.join(found)}" if found else "no video stream"
        raise clip_error(path, decoder="pyav", got=got, need="a video stream")
    codec = cast("VideoCodecContext | None", stream.codec_context)  # the types do not say that it may be absent
    if codec is None:
        got = "a video stream in a codec that this FFmpeg does not know"
        raise clip_error(path, decoder="pyav", got=got, need="a known codec", hint="re-encode the clip to H.264")
    check_frame_size(codec.width, codec.height, path=path, decoder="pyav")
    codec.thread_count = 1  # the default takes every core, and costs more CPU time per clip
    return stream


def _index_packets(container: InputContainer, stream: VideoStream, path: Path) -> _Index | None:
    """Returns the frame table from packets alone, or None where packets cannot be trusted to give it."""
    if not _INDEXED_FORMATS & set(container.format.name.split(",")):
        return None
    times: list[int] = []
    keys: list[int] = []
    last_pts, last_duration = -1, 0
    for packet in container.demux(stream):
        if packet.size == 0 or packet.is_discard:
            continue  # the end marker; or a frame that an edit list hides
        if packet.pts is None:
            return None
        times.append(packet.pts)
        if packet.is_keyframe:
            keys.append(packet.pts)
        if len(times) == 1 or packet.pts > last_pts:
            last_pts, last_duration = packet.pts, packet.duration or 0
        check_num_frames(len(times), path=path, decoder="pyav")
    check_num_frames(len(times), path=path, decoder="pyav")
    if len(set(times)) < len(times) or not keys:
        return None
    times.sort()
    time_base, start = stream.time_base, stream.start_time
    assert time_base is not None, "an open stream has a time base"
    start = times[0] if start is None else start
    if last_duration <= 0:  # a frame that does not say how long it stays: as long as the others
        last_duration = max(1, (last_pts - times[0]) // max(1, len(times) - 1))
    return _Index(
        pts=tuple(times),
        keys=tuple(sorted(keys)),
        timestamps_s=_to_seconds(times, start, time_base),
        duration_s=float((last_pts + last_duration - start) * time_base),
        is_sequential=False,
    )


def _index_by_decoding(container: InputContainer, path: Path) -> _Index:
    """Returns the frame table of a container whose packets say too little, by decoding every frame."""
    stream = _find_stream(container, path)
    pts: list[int | None] = []
    suspects: set[int] = set()
    for frame, is_suspect in _decode_all(container, path):
        if is_suspect:
            suspects.add(len(pts))
        pts.append(frame.pts)
        check_num_frames(len(pts), path=path, decoder="pyav")
    check_num_frames(len(pts), path=path, decoder="pyav")
    rate = stream.average_rate or stream.guessed_rate or Fraction(25)
    known = [time for time in pts if time is not None]
    time_base = stream.time_base
    if time_base is not None and len(known) == len(pts) and all(a < b for a, b in itertools.pairwise(known)):
        # the first frame that decodes is second 0: AVI counts reordered frames from 1, a broadcast begins anywhere
        timestamps_s = _to_seconds(known, known[0], time_base)
    else:  # no usable times: frames are as far apart as the container says on average
        timestamps_s = (np.arange(len(pts)) / float(rate)).astype(np.float32)
    return _Index(
        pts=tuple(pts),
        keys=(),
        timestamps_s=timestamps_s,
        duration_s=float(timestamps_s[-1]) + float(1 / rate),
        is_sequential=True,
        suspects=frozenset(suspects),
    )


def _decode_all(container: InputContainer, path: Path) -> Iterator[tuple[VideoFrame, bool]]:
    """Yields every frame in display order, and whether it may be damaged.

    A frame is suspect when it, or anything since the last key frame, did not decode cleanly. A broadcast that starts
    in the middle of a group begins with such errors, and its first frame is a key frame.
    """
    import av

    stream = _find_stream(container, path)
    is_suspect = False
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.error.InvalidDataError:
            is_suspect = True
            continue
        for frame in frames:
            is_suspect = frame.is_corrupt or (is_suspect and not frame.key_frame)
            yield frame, is_suspect


def _to_seconds(pts: Sequence[int], start: int, time_base: Fraction) -> Float32s:
    """Returns float32 seconds since the stream's start: what the published sampling rules were fed with."""
    base = float(time_base)
    return np.array([float(time - start) * base for time in pts], dtype=np.float32)
