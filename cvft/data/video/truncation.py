"""Tells a clip that was cut off while it was copied, from the sizes that its container declares.

Decoders give the frames that are left of such a file, so that it would pass for a shorter clip.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

_EBML, _SEGMENT = 0x1A45DFA3, 0x18538067
_BOXES_WITH_FRAMES = (b"mdat", b"moov", b"moof")


def count_missing_bytes(path: Path) -> int:
    """Returns how many bytes an mp4, mov, mkv or webm file lacks at its end, at least.

    Args:
        path: A regular file of any kind.

    Returns:
        The bytes that the last part in the file lacks: 0 for a whole file, for one whose length is not declared, and
        for every other container. Parts that are absent altogether are not counted.

    Source: ISO/IEC 14496-12 section 4.2 (boxes), RFC 8794 section 6 and RFC 9559 (EBML elements, Segment).
    """
    num_bytes = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(8)
        file.seek(0)
        if head[4:8] == b"ftyp":
            end = _find_box_end(file, num_bytes)
        elif head[:4] == _EBML.to_bytes(4):
            end = _find_segment_end(file)
        else:
            end = 0
    return max(0, end - num_bytes)


def _find_box_end(file: BinaryIO, num_bytes: int) -> int:
    """Returns where the last box that holds frames or their table should end."""
    offset, end = 0, 0
    while offset + 8 <= num_bytes:
        file.seek(offset)
        size, kind = struct.unpack(">I4s", file.read(8))
        if size == 1:  # a 64-bit size follows
            large = file.read(8)
            size = int.from_bytes(large) if len(large) == 8 else 0
        if size < 8:  # 0: up to the end of the file; anything else is no box
            break
        offset += size
        if kind in _BOXES_WITH_FRAMES:  # other names at the end may be stray bytes
            end = offset
    return end


def _find_segment_end(file: BinaryIO) -> int:
    """Returns where the segment should end; 0 when its size is unknown, as in a live recording."""
    for _ in range(2):
        name = int.from_bytes(file.read(4))
        first = file.read(1)
        if not first or not first[0]:
            return 0
        num_more = 8 - first[0].bit_length()
        size = (first[0] & (0x7F >> num_more)) << 8 * num_more | int.from_bytes(file.read(num_more))
        is_unknown = size == (1 << 7 * (num_more + 1)) - 1
        if is_unknown:
            return 0
        end = file.seek(size, 1)
        if name == _SEGMENT:
            return end
    return 0
