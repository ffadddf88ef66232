"""Where an mkv or webm file ends. Source: RFC 8794 sections 4 to 6 (EBML elements), RFC 9559 (Segment, Info, Cluster)."""

from __future__ import annotations

import struct
from typing import BinaryIO

from cvft.data.video.truncation.ending import Ending

_EBML, _SEGMENT, _INFO, _CLUSTER = 0x1A45DFA3, 0x18538067, 0x1549A966, 0x1F43B675
_SCALE, _DURATION = 0x2AD7B1, 0x4489

_IN_SEGMENT = frozenset(
    {0x114D9B74, _INFO, 0x1654AE6B, _CLUSTER, 0x1C53BB6B, 0x1941A469, 0x1043A770, 0x1254C367, 0xEC, 0xBF}
)
"""SeekHead, Info, Tracks, Cluster, Cues, Attachments, Chapters, Tags, Void, CRC-32."""

_IN_CLUSTER = frozenset({0xE7, 0xA7, 0xAB, 0xA3, 0xA0, 0x5854, 0xAF})
"""Timestamp, Position, PrevSize, SimpleBlock, BlockGroup, SilentTracks, EncryptedBlock."""


def find_segment_end(file: BinaryIO, num_bytes: int) -> Ending:
    """Returns the end of the segment; of a live recording, whose segment has no size, that of its last block."""
    header = _read_element(file)
    if header is None or header[0] != _EBML or header[1] is None or header[1] > num_bytes:
        return Ending()
    file.seek(header[1], 1)
    segment = _read_element(file)
    if segment is None or segment[0] != _SEGMENT:
        return Ending()
    begin = file.tell()
    stated_s, last_end = _walk(file, num_bytes, to_the_end=segment[1] is None)
    end = last_end if segment[1] is None else begin + segment[1]
    num_missing = max(0, end - num_bytes)
    if segment[1] is None:
        return Ending(num_missing=num_missing, stated_s=stated_s)
    return Ending(num_missing=num_missing, stated_s=stated_s, end=end, is_complete=not num_missing)


def _walk(file: BinaryIO, num_bytes: int, *, to_the_end: bool) -> tuple[float | None, int]:
    """Reads elements one after the other: returns the stated length, and where the last one ends."""
    stated_s: float | None = None
    last_end = 0
    while file.tell() < num_bytes:
        element = _read_element(file)
        if element is None or element[0] not in _IN_SEGMENT | _IN_CLUSTER:  # stray bytes behind the last one
            break
        name, size = element
        if name == _CLUSTER and not to_the_end:
            break
        if name == _CLUSTER or size is None:  # what it holds follows
            continue
        last_end = file.tell() + size
        if name == _INFO:
            stated_s = _read_length(file.read(min(size, 1 << 16)))
        if last_end > num_bytes:
            break
        file.seek(last_end)
    return stated_s, last_end


def _read_length(info: bytes) -> float | None:
    """Returns the length in seconds from an Info element."""
    scale_ns, duration, at = 1_000_000, 0.0, 0
    while at < len(info):
        num_name = 9 - info[at].bit_length()
        name = int.from_bytes(info[at : at + num_name])
        at += num_name
        if at >= len(info) or not info[at] or num_name > 4:
            break
        num_size = 9 - info[at].bit_length()
        size = int.from_bytes(info[at : at + num_size]) & ((1 << 7 * num_size) - 1)
        body = info[at + num_size : at + num_size + size]
        at += num_size + size
        if name == _SCALE:
            scale_ns = int.from_bytes(body)
        elif name == _DURATION and len(body) in (4, 8):
            (duration,) = struct.unpack(">f" if len(body) == 4 else ">d", body)
    return duration * scale_ns / 1e9 if duration > 0 else None


def _read_element(file: BinaryIO) -> tuple[int, int | None] | None:
    """Returns name and size of the element here, the size None where it is unknown; None where no element is."""
    first = file.read(1)
    if not first or first[0] < 0x10:
        return None
    name = int.from_bytes(first + file.read(8 - first[0].bit_length()))
    first = file.read(1)
    if not first or not first[0]:
        return None
    num_more = 8 - first[0].bit_length()
    rest = file.read(num_more)
    if len(rest) < num_more:
        return None
    size = (first[0] & (0x7F >> num_more)) << 8 * num_more | int.from_bytes(rest)
    return name, None if size == (1 << 7 * (num_more + 1)) - 1 else size
