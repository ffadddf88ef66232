"""Finds the end that a container states, whatever its kind, and compares it with what is there."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from cvft.data.video.frame_table import PacketScan
from cvft.data.video.reader import clip_error
from cvft.data.video.truncation.boxes import find_box_end
from cvft.data.video.truncation.broadcast import find_gif_end, find_ogg_end, find_program_end, find_transport_end
from cvft.data.video.truncation.elements import find_segment_end
from cvft.data.video.truncation.ending import Ending
from cvft.data.video.truncation.headers import find_asf_end, find_flv_end, find_riff_end

_UNKNOWN = "the container does not state its length: a file that was cut off would look the same"
_ZEROS = (
    "the file ends in zeros, as a download does that was not finished; its container does not state what is missing"
)
_LONGER = "the header states a longer clip than its frames are"

_MIN_ZEROS = 64
"""Fewer zero bytes at the end of a file are padding."""

_LOST_FRAME, _ROUNDING_S = 0.75, 0.002
"""Where a file ends in zeros, one frame less than stated is a lost one; headers round to milliseconds."""

_MIN_PACKETS = 3

_SMALL_GAP_S = 0.02
"""Muxers round lengths to milliseconds or to a frame; a length that is short by less than this is whole."""


FindEnding = Callable[[BinaryIO, int], Ending]
"""Reads an open file of a number of bytes from its start."""

_KINDS: tuple[tuple[int, bytes, FindEnding], ...] = (
    (4, b"ftyp", find_box_end),
    (4, b"moov", find_box_end),
    (4, b"mdat", find_box_end),
    (4, b"wide", find_box_end),
    (4, b"free", find_box_end),
    (4, b"skip", find_box_end),
    (0, b"\x1aE\xdf\xa3", find_segment_end),
    (0, b"RIFF", find_riff_end),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", find_asf_end),
    (0, b"FLV", find_flv_end),
    (0, b"GIF8", find_gif_end),
    (0, b"OggS", find_ogg_end),
    (0, b"\0\0\x01\xba", find_program_end),
)
"""Offset, bytes there, and who reads such a file."""


def find_ending(path: Path) -> Ending:
    """Returns what a container states about its end.

    Args:
        path: A regular file of any kind.

    Returns:
        The ending; for a file that is no known container, one that states nothing.
    """
    num_bytes = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(16)
        file.seek(0)
        find = next((find for at, magic, find in _KINDS if head[at : at + len(magic)] == magic), find_transport_end)
        ending = find(file, num_bytes)
        num_stray = 0 if ending.end is None else max(0, num_bytes - ending.end)
        return replace(ending, num_zeros=_count_zeros(file, num_bytes) - num_stray)


def check_length(path: Path, ending: Ending, scan: PacketScan, *, decoder: str) -> tuple[str, ...]:
    """Compares the length that a header states with the packets that are there.

    Args:
        path: The clip, for messages.
        ending: What its container states.
        scan: What its packets are.
        decoder: For messages.

    Returns:
        Notes for the user: the same words for every clip that they apply to.

    Raises:
        ClipError: The container states more than is there.
    """
    hint = "copy or download it again"
    if scan.num_zero:
        got = f"a file of which {scan.num_zero:,} of {scan.num_packets:,} packets hold only zeros"
        raise clip_error(path, decoder=decoder, got=got, need="a whole file", hint=hint)
    has_zeros = ending.num_zeros >= _MIN_ZEROS
    has_strange_zeros = has_zeros and ending.num_zeros >= ending.padding
    if ending.stated_s is None:
        if ending.is_complete:
            return ()
        return (_ZEROS if has_strange_zeros else ending.note or _UNKNOWN,)
    if not scan.distance_s:  # a single frame, which does not say how long it stays
        return (_ZEROS,) if has_strange_zeros else ()
    missing_s = ending.stated_s - scan.end_s
    frame_s = _LOST_FRAME * scan.distance_s + _ROUNDING_S
    lost_s = frame_s if has_strange_zeros else 2 * scan.distance_s + _SMALL_GAP_S
    lost_s = lost_s if has_zeros else max(lost_s, 0.02 * ending.stated_s)
    if missing_s > lost_s and (has_zeros or not ending.is_complete):
        got = (
            f"a file that was cut off (its header states {ending.stated_s:.2f} s, its frames end at {scan.end_s:.2f} s)"
        )
        raise clip_error(path, decoder=decoder, got=got, need="a whole file", hint=hint)
    if has_strange_zeros:
        return (_ZEROS,)
    if scan.num_packets < _MIN_PACKETS:  # how long so few frames stay is not known well
        return ()
    is_longer = missing_s > (max(1.0, 2 * scan.distance_s, 0.05 * ending.stated_s) if ending.is_complete else frame_s)
    return (_LONGER,) if is_longer else ()


def _count_zeros(file: BinaryIO, num_bytes: int) -> int:
    """Returns how many bytes at the end of the file are zero."""
    block, end = 1 << 16, num_bytes
    while end > 0:
        begin = max(0, end - block)
        file.seek(begin, os.SEEK_SET)
        rest = file.read(end - begin).rstrip(b"\0")
        if rest:
            return num_bytes - begin - len(rest)
        end = begin
    return num_bytes
