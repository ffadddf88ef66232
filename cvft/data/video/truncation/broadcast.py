"""Where ts, mpg, ogv and gif files end: a row of packets, of which the last may say that it is the last.

Sources: ISO/IEC 13818-1 sections 2.4.3 (transport packets), 2.5.3 (packs, PES packets, program end); RFC 3533 section 6
(Ogg pages); GIF89a specification sections 18 to 27.
"""

from __future__ import annotations

from typing import BinaryIO

from cvft.data.video.truncation.ending import Ending

_NO_TRAILER = "the file ends without its trailer, as one does that was cut off"
_INSIDE = "the file ends inside a packet, as one does that was cut off; its container does not state how long it is"


def find_transport_end(file: BinaryIO, num_bytes: int) -> Ending:
    """Returns what is known of a transport stream: nothing but whether its last packet is whole."""
    head = file.read(3 * 204)
    for size, first in ((188, 0), (192, 4), (204, 0)):
        if all(head[at : at + 1] == b"G" for at in range(first, len(head), size)):
            return Ending(note=_INSIDE if num_bytes % size else "")
    return Ending()


def find_program_end(file: BinaryIO, num_bytes: int) -> Ending:
    """Returns the end of the last packet of a program stream; its end code says that there is no other."""
    at = 0
    while at + 6 <= num_bytes:
        file.seek(at)
        head = file.read(14)
        if head[:3] != b"\0\0\x01":
            break
        code = head[3]
        if code == 0xBA:
            if len(head) < 14:
                break
            at += 14 + (head[13] & 7) if head[4] >> 6 == 1 else 12
        elif code >= 0xBB:
            at += 6 + int.from_bytes(head[4:6])
        else:
            break
    if at + 4 <= num_bytes:
        file.seek(at)
        if file.read(4) == b"\0\0\x01\xb9":
            return Ending(end=at + 4, is_complete=True)
    return Ending(num_missing=max(0, at - num_bytes))


def find_ogg_end(file: BinaryIO, num_bytes: int) -> Ending:
    """Returns the end of the last page of an ogg file; it is complete when the last page of each stream says so."""
    at, open_streams = 0, set()
    while at + 27 <= num_bytes:
        file.seek(at)
        head = file.read(27)
        if head[:4] != b"OggS":
            break
        flags, serial, num_segments = head[5], head[14:18], head[26]
        at += 27 + num_segments + sum(file.read(num_segments))
        if flags & 4:
            open_streams.discard(serial)
        else:
            open_streams.add(serial)
    return Ending(num_missing=max(0, at - num_bytes), end=at, is_complete=at <= num_bytes and not open_streams)


def find_gif_end(file: BinaryIO, num_bytes: int) -> Ending:
    """Returns whether a gif reaches its trailer."""
    head = file.read(13)
    if len(head) < 13:
        return Ending(note=_NO_TRAILER)
    at = 13 + _count_colours(head[10])
    while at < num_bytes:
        file.seek(at)
        kind = file.read(1)
        if kind == b";":
            return Ending(end=at + 1, is_complete=True)
        if kind == b"!":
            at += 2
        elif kind == b",":
            image = file.read(9)
            if len(image) < 9:
                break
            at += 11 + _count_colours(image[8])  # and the byte that says how its pixels are packed
        else:
            break
        at = _skip_blocks(file, at, num_bytes)
    return Ending(note=_NO_TRAILER)


def _count_colours(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _skip_blocks(file: BinaryIO, at: int, num_bytes: int) -> int:
    """Returns where the blocks that begin here end: each says its size, the last one has none."""
    while at < num_bytes:
        file.seek(at)
        size = file.read(1)
        at += 1 + size[0]
        if not size[0]:
            break
    return at
