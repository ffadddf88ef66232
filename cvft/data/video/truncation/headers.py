"""Where avi, wmv and flv files end: containers whose header states sizes and a length.

Sources: Microsoft's AVI RIFF file reference and OpenDML AVI extensions 1.02; ASF specification 01.20.05 sections 3.2 and
5; Adobe's Video File Format Specification version 10.1, annex E.
"""

from __future__ import annotations

import struct
from typing import BinaryIO

from cvft.data.video.truncation.ending import Ending

_RIFF_SLACK = 8
"""Some writers count the eight bytes of the chunk's own head."""

_UNKNOWN_LENGTH = 1 << 30
"""FFmpeg writes this number of frames when it cannot go back to write the right one."""

_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")


def find_riff_end(file: BinaryIO, num_bytes: int) -> Ending:
    """Returns the end of the last RIFF chunk of an avi, and the length of its video stream."""
    offset, end = 0, 0
    stated_s = None
    while offset + 12 <= num_bytes:
        file.seek(offset)
        name, size, kind = struct.unpack("<4sI4s", file.read(12))
        if name != b"RIFF" or kind not in (b"AVI ", b"AVIX"):
            break
        if not offset:
            stated_s = _read_avi_length(file.read(min(size, 1 << 20)))
        if size in (0, 0xFFFFFFFF):  # written to a pipe
            return Ending(stated_s=stated_s)
        end = offset + 8 + size
        offset = end + size % 2
    num_missing = max(0, end - num_bytes)
    num_missing = num_missing if num_missing > _RIFF_SLACK else 0
    return Ending(num_missing=num_missing, stated_s=stated_s, end=end or None, is_complete=end > 0 and not num_missing)


def _read_avi_length(head: bytes) -> float | None:
    """Returns the length of the first video stream in seconds, from its stream header (strh)."""
    at = head.find(b"vids")
    if at < 8 or head[at - 8 : at - 4] != b"strh" or len(head) < at + 36:
        return None
    scale, rate, _, length = struct.unpack_from("<4I", head, at + 20)
    return length * scale / rate if rate and 0 < length < _UNKNOWN_LENGTH else None


def find_asf_end(file: BinaryIO, num_bytes: int) -> Ending:
    """Returns the end of the data object of a wmv or asf file, and the time that it plays; nothing for a live one."""
    head = file.read(30)
    if len(head) < 30:
        return Ending()
    data_at, num_objects = struct.unpack_from("<QI", head, 16)
    stated_s, num_stated, packet_bytes = None, 0, 0
    if data_at + 24 > num_bytes:
        return Ending(num_missing=data_at + 24 - num_bytes)
    for _ in range(min(num_objects, 1000)):
        at = file.tell()
        name, size = _read_asf_object(file)
        if name == _FILE_PROPERTIES:
            body = file.read(76)
            if len(body) < 76:
                break
            num_stated, _, _, play, _, preroll, flags, _, packet_bytes = struct.unpack("<6Q3I", body[16:])
            if flags & 1 or not play:  # a broadcast: sizes and times mean nothing
                return Ending()
            stated_s = play / 1e7 - preroll / 1e3
        if size < 24 or at + size >= data_at:
            break
        file.seek(at + size)
    file.seek(data_at)
    name, size = _read_asf_object(file)
    if name != _DATA or size < 50:
        return Ending(stated_s=stated_s)
    num_missing = max(0, data_at + size - num_bytes)
    is_stated = stated_s is not None and stated_s > 0
    return Ending(
        num_missing=num_missing,
        stated_s=stated_s if is_stated else None,
        end=max(num_stated, data_at + size),
        padding=min(packet_bytes, 1 << 16),
        is_complete=not num_missing,
    )


def _read_asf_object(file: BinaryIO) -> tuple[bytes, int]:
    head = file.read(24)
    return (head[:16], int.from_bytes(head[16:], "little")) if len(head) == 24 else (b"", 0)


def find_flv_end(file: BinaryIO, num_bytes: int) -> Ending:
    """Returns the end of the last tag of an flv file, and the length that its metadata state."""
    head = file.read(9)
    if len(head) < 9:
        return Ending()
    offset = int.from_bytes(head[5:9]) + 4
    end, stated_s = offset, None
    while offset + 11 <= num_bytes:
        file.seek(offset)
        tag = file.read(11)
        kind, size = tag[0] & 0x1F, int.from_bytes(tag[1:4])
        if kind not in (8, 9, 18):
            break
        if kind == 18 and stated_s is None:
            stated_s = _read_flv_length(file.read(min(size, 1 << 16)))
        end = offset + 11 + size
        offset = end + 4
    return Ending(num_missing=max(0, end - num_bytes), stated_s=stated_s)


def _read_flv_length(metadata: bytes) -> float | None:
    at = metadata.find(b"\0\x08duration\0")
    if b"onMetaData" not in metadata or at < 0 or len(metadata) < at + 19:
        return None
    (duration_s,) = struct.unpack_from(">d", metadata, at + 11)
    return float(duration_s) if 0 < duration_s < 1e9 else None
