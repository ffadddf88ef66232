"""Opens a clip's container with PyAV, safely, and decodes it from the start: what the frame table and reading share.

    path --open_container--> InputContainer --find_stream--> its video stream --decode_all--> every frame it shows

Refuses containers that may name other files (playlists), and streams that are no video.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from cvft.data.video.reader import MAX_FRAME_PX, check_frame_size, clip_error

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.codeccontext import VideoCodecContext
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

INDEXED_FORMATS = frozenset({"mov", "mp4", "m4a", "3gp", "3g2", "mj2", "matroska", "webm"})
"""Containers whose packets carry trustworthy times and that seek to key frames exactly."""

_FORMATS = (*sorted(INDEXED_FORMATS), "avi", "mpegts", "mpeg", "flv", "asf", "gif", "ogg")
"""Containers that are opened at all. Playlists and the like, which make FFmpeg read other files, are not among them."""

_OPEN_OPTIONS = {
    "format_whitelist": ",".join(_FORMATS),
    "protocol_whitelist": "file",
    "max_pixels": str(MAX_FRAME_PX),  # a damaged header may ask for more: refused before anything is allocated
}

_ATTACHED_PICTURE = 1 << 10
"""FFmpeg's AV_DISPOSITION_ATTACHED_PIC: cover art of an audio file."""


_TS_PACKET_BYTES, _TS_SYNC, _SHORT_BROADCAST_BYTES = 188, 0x47, 188 * 64


@dataclass
class DecodeLog:
    """What a run through a clip met: filled while it goes on.

    Args:
        num_errors: Packets that the decoder refused.
        decode_times: When each of the others is decoded, in the stream's ticks, in order.
    """

    num_errors: int = 0
    decode_times: list[int | None] = field(default_factory=list)


@contextmanager
def open_container(path: Path) -> Iterator[InputContainer]:
    """Opens a clip for reading, and closes it: an open container keeps memory and threads until collected."""
    import av

    # absolute: a name with a colon is then no protocol. Titles in another encoding are no reason to refuse a clip.
    name = str(path.absolute())
    # a few packets of a broadcast are too few for FFmpeg to know it by its bytes, and it guesses something else
    kind = "mpegts" if _is_short_broadcast(path) else None
    with av.open(name, mode="r", format=kind, options=dict(_OPEN_OPTIONS), metadata_errors="replace") as container:
        yield container


def _is_short_broadcast(path: Path) -> bool:
    if path.stat().st_size >= _SHORT_BROADCAST_BYTES:
        return False
    with open(path, "rb") as file:
        data = file.read(3 * _TS_PACKET_BYTES)
    return len(data) == 3 * _TS_PACKET_BYTES and set(data[::_TS_PACKET_BYTES]) == {_TS_SYNC}


def find_stream(container: InputContainer, path: Path) -> VideoStream:
    """Returns the stream that players show.

    Raises:
        ClipError: There is none, its codec is unknown, or its frames are too large.
    """
    stream = cast("VideoStream | None", container.streams.best("video"))
    if stream is None or stream.disposition.value & _ATTACHED_PICTURE:
        found = sorted({other.type for other in container.streams if other is not stream})
        got = f"no video stream, only {', '.join(found)}" if found else "no video stream"
        hint = "" if found else "the file is damaged or cut off"
        raise clip_error(path, decoder="pyav", got=got, need="a video stream", hint=hint)
    codec = cast("VideoCodecContext | None", stream.codec_context)  # the types do not say that it may be absent
    if codec is None:
        got = "a video stream in a codec that this FFmpeg does not know"
        raise clip_error(path, decoder="pyav", got=got, need="a known codec", hint="re-encode the clip to H.264")
    check_frame_size(codec.width, codec.height, path=path, decoder="pyav")
    if not codec.is_open:
        codec.thread_count = 1  # the default takes every core, and costs more CPU time per clip
        codec.options = {**codec.options, "max_pixels": str(MAX_FRAME_PX)}
    return stream


def decode_all(
    container: InputContainer, path: Path, *, log: DecodeLog | None = None
) -> Iterator[tuple[VideoFrame, bool]]:
    """Yields every frame in display order, and whether it may be damaged.

    A frame is suspect when it, or anything since the last key frame, did not decode cleanly. A broadcast that starts
    in the middle of a group begins with such errors, and its first frame is a key frame.

    Args:
        container: An open clip, at its start.
        path: The clip, for messages.
        log: Counts what went wrong.
    """
    stream = find_stream(container, path)
    log = log or DecodeLog()
    is_suspect = False
    for packet in read_packets(container, stream):
        frames = decode_packet(packet)
        if frames is None:
            is_suspect = True
            log.num_errors += 1
            continue
        if packet.size:
            log.decode_times.append(packet.dts)
        for frame in frames:
            is_suspect = frame.is_corrupt or (is_suspect and not frame.key_frame)
            yield frame, is_suspect


def read_packets(container: InputContainer, *streams: VideoStream) -> Iterator[Packet[Any]]:
    """Yields the packets of these streams, or of all, and an empty one at the end of each.

    A stream that appears in the middle of the file makes PyAV fail behind the last packet.
    """
    with suppress(IndexError):
        yield from container.demux(*streams)


def decode_packet(packet: Packet[Any]) -> list[VideoFrame] | None:
    """Returns the frames that come out after a packet, or None where the decoder refuses it as damaged.

    Raises:
        av.error.MemoryError: This process has not enough memory for it.
    """
    import av

    if packet.size == 0 and packet.dts is not None:  # "the last picture stays": not the end, which an empty one means
        return []
    try:
        return packet.decode()
    except av.error.MemoryError:
        raise
    except av.error.FFmpegError:
        return None
