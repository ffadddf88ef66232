"""The table of a clip's frames: which frames the decoder shows, when, and how long the clip is.

    mp4, mov, mkv, webm:  one pass over packets, without decoding, where a packet is known to show one frame
    everything else:      every frame is decoded once, so that the table is what the decoder shows

Second 0 is the first frame that is shown. Times are those of the frames; where the container gives no presentation
times (H.264 in AVI), frames are shown at the times at which they are decoded, in order. No time is made up from an
average rate: a clip without usable times is refused.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cvft.data.video.container import INDEXED_FORMATS, DecodeLog, decode_all, find_stream, read_packets
from cvft.data.video.reader import check_num_frames, clip_error, fits_rate
from cvft.data.video.sample import Float32s, Float64s

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

_ONE_FRAME_PER_PACKET = frozenset({"h264", "hevc", "vp8", "vp9", "av1", "libdav1d", "mjpeg", "prores", "ffv1"})
"""Codecs whose packets in indexed containers are known to show one frame each, apart from what is checked here."""

_HIDES_FRAMES = frozenset({"vp8", "vp9", "av1", "libdav1d"})
"""Codecs in which a shown frame may repeat a hidden one: what an edit list leaves of them only the decoder knows."""

_UNCOMPRESSED = frozenset({"rawvideo", "v210", "v410", "r210", "r10k", "bmp"})
"""Codecs in which a black frame is nothing but zeros."""

_JUMPING_FORMATS = frozenset({"mpegts", "mpeg"})
"""Broadcasts: their clock may start anew in the middle."""

_WITHOUT_PRESENTATION_TIMES = frozenset({"avi"})
"""Containers that count frames in the order of decoding only; FFmpeg guesses presentation times for them."""

_LARGEST_GAP_S = 10.0
"""A broadcast whose clock goes ahead further than this between two frames started anew. Source: FFmpeg's
`dts_delta_threshold`."""

_MIN_PACKET_BYTES = 16
"""A compressed packet of at least this size that holds only zeros was never written."""


@dataclass(frozen=True)
class PacketScan:
    """What one pass over all packets found, without decoding.

    Args:
        num_packets: Packets of the video stream that hold something.
        num_zero: Those among them that hold only zeros.
        end_s: Where the last packet of any stream ends, in seconds of the container's clock, and counted from the
            first packet: the later of the two.
        distance_s: The mean distance between two neighbouring video packets in seconds; of a single one, the header's.
    """

    num_packets: int
    num_zero: int
    end_s: float
    distance_s: float


@dataclass(frozen=True)
class FrameTable:
    """Frame i of the clip has the time `pts[i]` (None: known by its position only) and starts at `timestamps_s[i]`.

    Args:
        pts: The decoder's own time of each frame, in display order.
        keys: Times of key frames, ascending; empty where the clip is read from its start.
        times_s: Start of each frame in seconds since the first.
        duration_s: End of the last frame in seconds.
        is_sequential: Frames are found by their position, decoding from the start.
        suspects: Frames that may be damaged.
    """

    pts: tuple[int | None, ...]
    keys: tuple[int, ...]
    times_s: Float64s
    duration_s: float
    is_sequential: bool
    suspects: frozenset[int] = frozenset()

    @cached_property
    def timestamps_s(self) -> Float32s:
        """The times in float32: what the published sampling rules were fed with."""
        return self.times_s.astype(np.float32)

    def rate(self, stated: Fraction | None) -> float:
        """Returns average frames per second: the container's figure where it agrees with the table.

        Args:
            stated: What the container says, if anything. Published sampling rules were fed with it.
        """
        num_frames = len(self.times_s)
        measured = num_frames / self.duration_s if self.duration_s > 0 else 0.0
        if stated and (not measured or fits_rate(float(stated), num_frames=num_frames, duration_s=self.duration_s)):
            return float(stated)
        return measured


@dataclass
class _Packets:
    """The video packets of a clip, while they are read."""

    times: list[int] = field(default_factory=list)
    keys: list[int] = field(default_factory=list)
    last_pts: int = -1
    last_duration: int = 0
    is_trusted: bool = True

    def add(self, packet: Packet[Any], codec: str) -> None:
        shown = count_shown_frames(packet, codec)
        if packet.pts is not None and packet.is_keyframe:
            self.keys.append(packet.pts)
        if not self.keys:
            self.is_trusted = False  # it starts inside a group: how much of it is shown, the decoder decides
        if packet.is_discard:  # hidden by an edit list, which frees H.264 and HEVC of exactly this frame
            self.is_trusted = self.is_trusted and codec not in _HIDES_FRAMES
            return
        if packet.pts is None or shown > 1:
            self.is_trusted = False
            return
        if not shown:
            return
        self.times.append(packet.pts)
        if len(self.keys) == 1 and packet.pts < self.keys[0]:
            self.is_trusted = False  # refers to a group that was cut off
        if len(self.times) == 1 or packet.pts > self.last_pts:
            self.last_pts, self.last_duration = packet.pts, packet.duration or 0


def scan_packets(container: InputContainer, stream: VideoStream, path: Path) -> tuple[PacketScan, FrameTable | None]:
    """Reads all packets once, without decoding them.

    Args:
        container: An open clip, at its start.
        stream: Its video stream.
        path: The clip, for messages.

    Returns:
        What was found, and the frame table, or None where packets cannot be trusted to give it.

    Raises:
        ClipError: There is no frame, or there are too many.
    """
    codec = stream.codec_context.name
    packets = _Packets(is_trusted=bool(INDEXED_FORMATS & set(container.format.name.split(","))))
    packets.is_trusted = packets.is_trusted and codec in _ONE_FRAME_PER_PACKET
    num_packets = num_zero = 0
    bases: dict[int, Fraction] = {}
    extents: dict[int, tuple[int, int]] = {}  # of each stream, in its ticks: fractions take longer than reading packets
    video_times: list[int] = []
    for packet in read_packets(container):
        index = packet.stream_index
        if index not in bases and packet.time_base is not None:
            bases[index] = packet.time_base
        if packet.size == 0 or index not in bases:  # the end marker
            continue
        time = packet.pts if packet.dts is None else packet.dts
        if time is not None:
            end = max(time, time if packet.pts is None else packet.pts) + (packet.duration or 0)
            first, last = extents.get(index, (time, end))
            extents[index] = min(first, time), max(last, end)
        if index != stream.index:
            continue
        num_packets += 1
        check_num_frames(num_packets, path=path, decoder="pyav")
        num_zero += codec not in _UNCOMPRESSED and is_zero(packet)
        if time is not None:
            video_times.append(time)
        if packets.is_trusted:
            packets.add(packet, codec)
    check_num_frames(num_packets, path=path, decoder="pyav")
    assert stream.time_base is not None, "an open stream has a time base"
    rate = stream.average_rate or stream.guessed_rate
    first_s = min((float(first * bases[index]) for index, (first, _) in extents.items()), default=math.inf)
    last_s = max([0.0, *(float(last * bases[index]) for index, (_, last) in extents.items())])
    distance_s = _mean_distance(video_times) * float(stream.time_base) or (float(1 / rate) if rate else 0.0)
    if video_times:  # the last frame stays as long as the others, where it does not say how long
        last_s = max(last_s, float(max(video_times) * stream.time_base) + distance_s)
    end_s = max(last_s, last_s - first_s) if first_s < math.inf else 0.0
    scan = PacketScan(num_packets=num_packets, num_zero=num_zero, end_s=end_s, distance_s=distance_s)
    if stream.codec_context.has_b_frames and _is_ascending(packets.times):
        packets.is_trusted = False  # copied from an avi: its times are those of decoding, not those of showing
    return scan, _make_table(packets, stream.time_base)


def _make_table(packets: _Packets, time_base: Fraction) -> FrameTable | None:
    times = sorted(packets.times)
    if not packets.is_trusted or not times or len(set(times)) < len(times):
        return None
    last_duration = packets.last_duration
    if last_duration <= 0:  # a frame that does not say how long it stays: as long as the others
        last_duration = max(1, (times[-1] - times[0]) // max(1, len(times) - 1))
    return FrameTable(
        pts=tuple(times),
        keys=tuple(sorted(packets.keys)),
        times_s=_to_seconds(times, time_base),
        duration_s=float((times[-1] + last_duration - times[0]) * time_base),
        is_sequential=False,
    )


def decode_table(container: InputContainer, path: Path) -> tuple[FrameTable, DecodeLog]:
    """Returns the frame table by decoding every frame, and what went wrong on the way.

    Args:
        container: An open clip, at its start.
        path: The clip, for messages.

    Raises:
        ClipError: There is no frame, there are too many, or they have no usable times.
    """
    stream = find_stream(container, path)
    pts: list[int | None] = []
    durations: list[int] = []
    release_times: list[int | None] = []
    suspects: set[int] = set()
    log = DecodeLog()
    for frame, is_suspect in decode_all(container, path, log=log):
        if is_suspect:
            suspects.add(len(pts))
        pts.append(frame.pts)
        durations.append(frame.duration or 0)
        release_times.append(frame.dts)
        check_num_frames(len(pts), path=path, decoder="pyav")
    check_num_frames(len(pts), path=path, decoder="pyav")
    time_base = stream.time_base
    assert time_base is not None, "an open stream has a time base"
    name = container.format.name
    times = None
    if name not in _WITHOUT_PRESENTATION_TIMES:
        times = _show_at_presentation_times(pts, release_times, durations, time_base, jumps=name in _JUMPING_FORMATS)
    last_duration = durations[-1]
    if times is None:
        times = _show_at_decode_times(release_times, log.decode_times)
        last_duration = 0
    if times is None:
        got = f"{len(pts)} frames without usable times"
        hint = "write its times anew: ffmpeg -fflags +genpts -i CLIP -c copy NEW.mp4"
        raise clip_error(path, decoder="pyav", got=got, need="a time for each frame", hint=hint)
    if last_duration <= 0:
        last_duration = _middle_distance(times) or _ticks(stream.guessed_rate, time_base)
    table = FrameTable(
        pts=tuple(pts),
        keys=(),
        times_s=_to_seconds(times, time_base),
        duration_s=float((times[-1] + last_duration - times[0]) * time_base),
        is_sequential=True,
        suspects=frozenset(suspects),
    )
    return table, log


def _show_at_presentation_times(
    pts: Sequence[int | None],
    release_times: Sequence[int | None],
    durations: Sequence[int],
    time_base: Fraction,
    *,
    jumps: bool,
) -> list[int] | None:
    """Returns presentation times where they are good: known, and never going back."""
    known = [time for time in pts if time is not None]
    if len(known) == len(pts) and all(a < b for a, b in itertools.pairwise(known)):
        return _join_clocks(known, durations, time_base) if jumps else known
    goes_back = any(a > b for a, b in itertools.pairwise(known))
    if len(known) < len(pts) or (goes_back and not jumps):
        return None
    known = [time for time in _guess_times(pts, release_times) if time is not None]
    if jumps:
        known = _join_clocks(known, durations, time_base)
    return known if all(a <= b for a, b in itertools.pairwise(known)) else None


def _guess_times(pts: Sequence[int | None], release_times: Sequence[int | None]) -> Iterator[int | None]:
    """Yields the time of each frame that players take: of the two it has, the kind that went back less often so far.

    Source: `guess_correct_pts` of FFmpeg's libavcodec/decode.c.
    """
    num_faulty_pts = num_faulty_dts = 0
    last_pts = last_dts = -(1 << 63)
    for shown, decoded in zip(pts, release_times, strict=True):
        if decoded is not None:
            num_faulty_dts += decoded <= last_dts
        if shown is not None:
            num_faulty_pts += shown <= last_pts
        last_dts = decoded if decoded is not None else shown if shown is not None else last_dts
        last_pts = shown if shown is not None else decoded if decoded is not None else last_pts
        takes_shown = shown is not None and (num_faulty_pts <= num_faulty_dts or decoded is None)
        yield shown if takes_shown else decoded


def _join_clocks(times: Sequence[int], durations: Sequence[int], time_base: Fraction) -> list[int]:
    """Where the clock of a broadcast starts anew, the next frame follows the last one."""
    largest_gap = int(_LARGEST_GAP_S / time_base)
    joined = [times[0]]
    shift = 0
    for (before, time), duration in zip(itertools.pairwise(times), durations, strict=False):
        if not 0 <= time - before <= largest_gap:
            shift += before + max(duration, 1) - time
        joined.append(time + shift)
    return joined


def _show_at_decode_times(release_times: Sequence[int | None], decode_times: Sequence[int | None]) -> list[int] | None:
    """Returns when frames come out of the decoder: in order, one for each packet, a few packets late.

    Args:
        release_times: Decode time of the packet at which each frame came out; None for the last few, which come out
            when no packet is left: they follow as far apart as packets are.
        decode_times: Decode times of all packets.
    """
    packets = [time for time in decode_times if time is not None]
    known = list(itertools.takewhile(lambda time: time is not None, release_times))
    num_late = len(release_times) - len(known)
    if not known and len(packets) >= num_late:  # shorter than the decoder's delay
        times: list[int] = packets[-num_late:]
    elif known and not any(time is not None for time in release_times[len(known) :]):
        distance = _middle_distance(packets) or 1
        times = [time for time in known if time is not None]
        times += [times[-1] + distance * (i + 1) for i in range(num_late)]
    else:
        return None
    return times if all(a < b for a, b in itertools.pairwise(times)) else None


def count_shown_frames(packet: Packet[Any], codec: str) -> int:
    """Returns how many frames a packet shows, as far as its codec can hide one.

    Source: RFC 6386 section 9.1 (VP8, show_frame); VP9 bitstream specification 6.2 and annex B (superframes).
    """
    data = memoryview(packet)
    if codec == "vp8":
        return data[0] >> 4 & 1
    if codec != "vp9":
        return 1
    starts, last = [0], data[-1]
    if last & 0xE0 == 0xC0:
        num_frames, num_bytes = (last & 7) + 1, (last >> 3 & 3) + 1
        index = bytes(data[-(2 + num_frames * num_bytes) :])
        if len(index) == 2 + num_frames * num_bytes and index[0] == last:
            sizes = [
                int.from_bytes(index[1 + i * num_bytes : 1 + (i + 1) * num_bytes], "little") for i in range(num_frames)
            ]
            starts = [start for start, size in zip(itertools.accumulate([0, *sizes]), sizes, strict=False) if size]
    return sum(_shows_vp9_frame(data[start : start + 1]) for start in starts)


def _shows_vp9_frame(first_byte: memoryview) -> bool:
    if not len(first_byte):
        return False
    bits = first_byte[0]
    if bits >> 4 & 3 == 3:  # profile 3 has one bit more
        bits = bits << 1 & 0xFF
    shows_existing, is_shown = bits >> 3 & 1, bits >> 1 & 1
    return bool(shows_existing or is_shown)


def is_zero(packet: Packet[Any]) -> bool:
    """Tells whether a packet holds nothing but zeros, as the rest of a file does that was reserved and never written."""
    if packet.size < _MIN_PACKET_BYTES:
        return False
    data = memoryview(packet)
    return not any(data[:_MIN_PACKET_BYTES]) and not bytes(data).strip(b"\0")


def _is_ascending(times: Sequence[int]) -> bool:
    return len(times) > 2 and all(a < b for a, b in itertools.pairwise(times))


def _mean_distance(times: Sequence[int]) -> float:
    return (max(times) - min(times)) / (len(times) - 1) if len(times) > 1 else 0.0


def _middle_distance(times: Sequence[int]) -> int:
    distances = sorted(b - a for a, b in itertools.pairwise(times))
    return distances[len(distances) // 2] if distances else 0


def _ticks(rate: Fraction | None, time_base: Fraction) -> int:
    """Returns how long one frame stays, in ticks, for a clip that holds a single frame."""
    return max(1, round(1 / (rate * time_base))) if rate else 1


def _to_seconds(times: Sequence[int], time_base: Fraction) -> Float64s:
    """Returns seconds since the first frame."""
    base = float(time_base)
    return np.array([float(time - times[0]) * base for time in times])
