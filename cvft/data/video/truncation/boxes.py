"""Where an mp4 or mov file ends. Source: ISO/IEC 14496-12 sections 4.2 (boxes), 8.8 (fragments), 8.16.3 (sidx)."""

from __future__ import annotations

import struct
from typing import BinaryIO

from cvft.data.video.truncation.ending import Ending

_WITH_FRAMES = (b"mdat", b"moov", b"moof")


def find_box_end(file: BinaryIO, num_bytes: int) -> Ending:
    """Returns the end of the last box that holds frames or their table.

    Fragments come one after another, so that a file cut between two of them has no open box: then the segment index at
    its start (sidx), the index at its end (mfra) or the length of all fragments (mehd) tells.
    """
    offset, end, index_end = 0, 0, 0
    is_fragmented, has_index, counts = False, False, list[int]()
    stated_s: float | None = None
    while offset + 8 <= num_bytes:
        file.seek(offset)
        size, kind = struct.unpack(">I4s", file.read(8))
        num_header = 8
        if size == 1:  # a 64-bit size follows
            large = file.read(8)
            size, num_header = (int.from_bytes(large), 16) if len(large) == 8 else (0, 16)
        if size < num_header:  # 0: up to the end of the file; anything else is no box
            break
        if kind == b"moov":
            stated_s = _read_fragment_length(file.read(min(size - num_header, 1 << 24)))
        elif kind == b"sidx":
            reach, count = _sum_references(file.read(min(size - num_header, 1 << 24)))
            index_end = max(index_end, offset + size + reach)
            counts.append(count)
        is_fragmented = is_fragmented or kind == b"moof"
        has_index = has_index or kind == b"mfra"
        offset += size
        if kind in _WITH_FRAMES:  # other names at the end may be stray bytes
            end = offset
    num_missing = max(0, max(end, index_end) - num_bytes)
    # one index of all segments tells where they end; where each segment has its own, none does
    has_index = has_index or (len(counts) == 1 and counts[0] > 1)
    is_complete = not num_missing and (not is_fragmented or has_index)
    stated_s = stated_s if is_fragmented else None
    return Ending(num_missing=num_missing, stated_s=stated_s, end=max(end, index_end), is_complete=is_complete)


def _sum_references(body: bytes) -> tuple[int, int]:
    """Returns how far a segment index reaches beyond itself, and of how many segments it tells."""
    if len(body) < 24:
        return 0, 0
    wide = body[0] > 0
    offset = int.from_bytes(body[20:28] if wide else body[16:20])
    at = 32 if wide else 24
    num_references = int.from_bytes(body[at - 2 : at])
    sizes = (int.from_bytes(body[i : i + 4]) & 0x7FFFFFFF for i in range(at, at + 12 * num_references, 12))
    return offset + sum(sizes), num_references


def _read_fragment_length(moov: bytes) -> float | None:
    """Returns the length of all fragments in seconds (mehd), if it is stated."""
    extends = moov.find(b"mehd")
    header = moov.find(b"mvhd")
    if extends < 0 or header < 0:
        return None
    scale_at = header + (24 if moov[header + 4] else 16)
    timescale = int.from_bytes(moov[scale_at : scale_at + 4])
    num_digits = 8 if moov[extends + 4] else 4
    duration = int.from_bytes(moov[extends + 8 : extends + 8 + num_digits])
    return duration / timescale if timescale and duration else None
