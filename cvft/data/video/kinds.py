"""Names what a file is by its first bytes, for messages about files that are no clip.

"Not read" is not "broken": a picture, a sound or an archive is named as what it is, with what is read instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

READ_KINDS = "a clip: mp4, mov, mkv, webm, avi, ts, mpg, flv, wmv, ogv or gif"
"""For messages: what is read."""

READ_PICTURES = "a picture: JPEG, PNG, WebP, BMP or TIFF"
"""For messages: what is read as a frame of a clip."""

_NUM_BYTES = 4096


@dataclass(frozen=True)
class Kind:
    """What a file is.

    Args:
        name: With its article.
        hint: What to do with it.
        is_clip: It is of a kind that is read.
        is_picture: It is of a kind that is read as a frame of a clip.
    """

    name: str
    hint: str = ""
    is_clip: bool = False
    is_picture: bool = False


_PICTURE = "a picture is no clip; name it in `images`, or make one of several: ffmpeg -framerate 1 -i picture_%03d.png clip.mp4"
_SOUND = "only what is seen is used"
_ARCHIVE = "unpack it, and name the clips inside"
_RE_ENCODE = "convert it: ffmpeg -i CLIP NEW.mp4"
_RAW = "a raw stream has no times; put it into a container: ffmpeg -i CLIP -c copy NEW.mp4"

_MAGIC: tuple[tuple[int, bytes, Kind], ...] = (
    (0, b"\x89PNG\r\n\x1a\n", Kind("a PNG picture", _PICTURE, is_picture=True)),
    (0, b"\xff\xd8\xff", Kind("a JPEG picture", _PICTURE, is_picture=True)),
    (0, b"BM", Kind("a BMP picture", _PICTURE, is_picture=True)),
    (0, b"II*\0", Kind("a TIFF picture", _PICTURE, is_picture=True)),
    (0, b"MM\0*", Kind("a TIFF picture", _PICTURE, is_picture=True)),
    (0, b"8BPS", Kind("a Photoshop picture", _PICTURE)),
    (0, b"\xff\x0a", Kind("a JPEG XL picture", _PICTURE)),
    (0, b"\0\0\0\x0cJXL ", Kind("a JPEG XL picture", _PICTURE)),
    (0, b"fLaC", Kind("a FLAC sound file", _SOUND)),
    (0, b"ID3", Kind("an MP3 sound file", _SOUND)),
    (0, b".snd", Kind("an AU sound file", _SOUND)),
    (0, b"#!AMR", Kind("an AMR sound file", _SOUND)),
    (0, b"MThd", Kind("a MIDI file", _SOUND)),
    (0, b"%PDF-", Kind("a PDF document", "it holds no clip")),
    (0, b"PK\x03\x04", Kind("a zip archive (or an office document)", _ARCHIVE)),
    (0, b"Rar!\x1a\x07", Kind("a rar archive", _ARCHIVE)),
    (0, b"7z\xbc\xaf\x27\x1c", Kind("a 7z archive", _ARCHIVE)),
    (0, b"\x1f\x8b", Kind("a gzip archive", _ARCHIVE)),
    (0, b"BZh", Kind("a bzip2 archive", _ARCHIVE)),
    (0, b"\xfd7zXZ\0", Kind("an xz archive", _ARCHIVE)),
    (0, b"\x28\xb5\x2f\xfd", Kind("a zstd archive", _ARCHIVE)),
    (257, b"ustar", Kind("a tar archive", _ARCHIVE)),
    (0, b"PAR1", Kind("a Parquet table", "name the clip itself, not a table")),
    (0, b"SQLite format 3\0", Kind("an SQLite database", "name the clip itself")),
    (0, b"\x7fELF", Kind("a program", "name the clip itself")),
    (0, b"\x93NUMPY", Kind("a NumPy array", "write its frames as a clip")),
    (0, b"\x89HDF\r\n\x1a\n", Kind("an HDF5 file", "write its frames as a clip")),
    (0, b"version https://git-lfs", Kind("a git-lfs pointer, not the clip itself", "fetch the files: git lfs pull")),
    (0, b".RMF", Kind("a RealMedia clip", _RE_ENCODE)),
    (4, b"ftypavif", Kind("an AVIF picture", _PICTURE)),
    (4, b"ftypheic", Kind("a HEIC picture", _PICTURE)),
    (4, b"ftypheix", Kind("a HEIC picture", _PICTURE)),
    (4, b"ftypmif1", Kind("a HEIF picture", _PICTURE)),
    (4, b"ftypM4A ", Kind("an M4A sound file", _SOUND)),
    (0, b"YUV4MPEG2", Kind("a y4m clip", _RE_ENCODE)),
    (0, b"DKIF", Kind("an IVF clip", _RE_ENCODE)),
    (0, b"nut/multimedia container", Kind("a NUT clip", _RE_ENCODE)),
    (0, b"\x06\x0e\x2b\x34\x02\x05\x01\x01", Kind("an MXF clip", _RE_ENCODE)),
    (0, b"\x1f\x07\0", Kind("a DV clip", _RE_ENCODE)),
    (0, b"\0\0\0\x01\x67", Kind("a raw H.264 stream", _RAW)),
    (0, b"\0\0\0\x01\x09", Kind("a raw H.264 stream", _RAW)),
    (0, b"\0\0\0\x01\x40\x01", Kind("a raw HEVC stream", _RAW)),
    (0, b"\0\0\x01\xb3", Kind("a raw MPEG stream", _RAW)),
    (0, b"\0\0\x01\xb0", Kind("a raw MPEG-4 stream", _RAW)),
    (0, b"#EXTM3U", Kind("a playlist, not the clip itself", "download the clip that it names")),
    (0, b"ffconcat", Kind("a list of clips, not a clip", "join them: ffmpeg -f concat -i LIST -c copy NEW.mp4")),
    (0, b"[playlist]", Kind("a playlist, not the clip itself", "download the clip that it names")),
    (4, b"ftyp", Kind("an mp4 or mov clip", is_clip=True)),
    (0, b"\x1aE\xdf\xa3", Kind("an mkv or webm clip", is_clip=True)),
    (0, b"FLV\x01", Kind("an flv clip", is_clip=True)),
    (0, b"GIF8", Kind("a gif clip", is_clip=True)),
    (0, b"OggS", Kind("an ogg file", is_clip=True)),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", Kind("a wmv or asf clip", is_clip=True)),
    (0, b"\0\0\x01\xba", Kind("an mpg clip", is_clip=True)),
)
"""Offset, bytes there, kind; the first that fits. Source: each format's own specification."""

_RIFF = {
    b"WEBP": Kind("a WebP picture", "animated or not, it is no clip; convert it to a gif or an mp4", is_picture=True),
    b"WAVE": Kind("a WAV sound file", _SOUND),
    b"RMID": Kind("a MIDI file", _SOUND),
    b"AVI ": Kind("an avi clip", is_clip=True),
}


def name_kind(path: Path) -> Kind | None:
    """Returns what a file is by its first bytes, or None where they do not tell.

    Args:
        path: A regular file.
    """
    with open(path, "rb") as file:
        head = file.read(_NUM_BYTES)
    if head[:4] in (b"RIFF", b"RIFX", b"RF64"):
        return _RIFF.get(head[8:12])
    for offset, magic, kind in _MAGIC:
        if head[offset : offset + len(magic)] == magic:
            return kind
    if _is_sound(head):
        return Kind("an MP3 or AAC sound file", _SOUND)
    if head and not head.strip(b"\0"):
        return Kind("nothing but zeros", "a download that was never finished; copy or download it again")
    return _name_text(head)


def _is_sound(head: bytes) -> bool:
    """Tells whether two frames of MP3 or AAC (ADTS) follow each other. Source: ISO/IEC 11172-3 2.4.1, 13818-7 6.2."""
    if len(head) < 7 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return False
    if head[1] & 0xF6 == 0xF0:
        num_bytes = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
    elif head[1] & 0xFE == 0xFA and head[2] >> 4 in range(1, 15) and (head[2] >> 2 & 3) < 3:  # MPEG-1 layer III
        kbit_s = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)[(head[2] >> 4) - 1]
        num_bytes = 144_000 * kbit_s // (44_100, 48_000, 32_000)[head[2] >> 2 & 3] + (head[2] >> 1 & 1)
    else:
        return False
    return head[num_bytes : num_bytes + 1] == b"\xff"


def _name_text(head: bytes) -> Kind | None:
    try:
        text = _without_last_character(head).decode() if len(head) == _NUM_BYTES else head.decode()
    except UnicodeDecodeError:
        return None
    if not text or not all(char.isprintable() or char in "\t\r\n\f\ufeff" for char in text):
        return None
    start = text.lstrip("\ufeff \t\r\n").lower()
    if start.startswith(("<!doctype html", "<html", "<head")):
        return Kind("a web page (HTML)", "the download gave a page instead of the clip; download it again")
    if start.startswith(("<?xml", "<svg", "<error")):
        return Kind("an XML document", "the download gave a message instead of the clip; look inside")
    if start.startswith(("{", "[")):
        return Kind("a JSON text", "the download gave a message instead of the clip; look inside")
    return Kind("a text file", "name the clip itself")


def _without_last_character(head: bytes) -> bytes:
    """Leaves out a character of which only a part was read."""
    end = len(head)
    while end > 0 and head[end - 1] & 0xC0 == 0x80:
        end -= 1
    return head[: end - 1] if end else b""
