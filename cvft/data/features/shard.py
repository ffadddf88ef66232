"""One file of a store: a safetensors file whose every entry carries a checksum.

    8 bytes: length of the header | header: JSON, then spaces up to 256 KiB | entries, one behind the other

The room for the header is set aside first, so entries go to disk as they come and nothing gathers in memory. Every
reader of safetensors reads these files; the checksums stand in the header's metadata, by clip.

Refuses: a file whose size is not what its header promises, and a header that leaves a byte unaccounted for.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cvft.dtypes import STORED
from cvft.weights.header import LENGTH_BYTES, ShortFileError, make_header, read_header

HEADER_BYTES = 2**18
"""Room for a header, its own length included; 256 KiB hold about 1000 entries, and the first one starts on a page."""


@dataclass(frozen=True)
class Feature:
    """What is kept of one clip, as raw bytes.

    Args:
        shape: (num_frames, patches, width) for features of a clip, (num_frames, height, width, 3) for pixels; any is taken.
        dtype: As safetensors names it: `BF16`, `F16` or `F32` for features, `U8` for pixels.
        data: The numbers, little-endian, the last axis fastest. Read-only; it lives as long as it is referred to, even
            when its file is removed.
    """

    shape: tuple[int, ...]
    dtype: str
    data: memoryview


@dataclass(frozen=True)
class Entry:
    """Where what is kept of one clip lies in a shard.

    Args:
        dtype: As safetensors names it.
        shape: Of the tensor.
        begin: First byte, counted from the start of the file.
        end: One past the last byte.
        checksum: CRC-32 of the clip, dtype, shape and bytes. It finds every flip of a single bit.
    """

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int
    checksum: int


class DamagedShardError(Exception):
    """A shard's header cannot be read, or does not fit its file.

    Args:
        reason: What the file is instead, as the `got` of a problem.
        clips: Those of its entries, where the header could be read.
    """

    def __init__(self, reason: str, clips: tuple[str, ...] = ()) -> None:
        super().__init__(reason)
        self.reason = reason
        self.clips = clips


def checksum_of(clip: str, dtype: str, shape: Sequence[int], data: memoryview) -> int:
    """Returns the checksum of an entry: of its bytes, and of all that the header says about them."""
    head = f"{clip} {dtype} {list(shape)}".encode()
    return zlib.crc32(data, zlib.crc32(head))


def as_bytes(data: object) -> memoryview:
    """Returns a flat view of anything with contiguous bytes: `bytes`, a NumPy array, a memoryview.

    Raises:
        ValueError: Its bytes do not lie one behind the other.
    """
    view = memoryview(data)  # type: ignore[arg-type]
    if not view.c_contiguous:
        raise ValueError("its bytes do not lie one behind the other")
    return view.cast("B") if view.nbytes else memoryview(b"")


class ShardFile:
    """A shard while it is being written, under a name that no reader looks at.

    A lock on the file lasts as long as its writer lives: whoever can take it knows that the writer is dead.

    Args:
        path: The file to create.

    Raises:
        OSError: The disk is full, or the folder cannot be written. This holds for every method.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._header_bytes = LENGTH_BYTES + 64
        self._entries: list[tuple[str, Entry]] = []
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # written, not only reserved: a disk that fills up later still takes the header of what is whole
            self._write(memoryview(b" " * HEADER_BYTES), at=0)
        except OSError:
            self.discard()
            raise

    @property
    def num_entries(self) -> int:
        """Entries that are whole."""
        return len(self._entries)

    @property
    def _end(self) -> int:
        return self._entries[-1][1].end if self._entries else HEADER_BYTES

    def fits(self, clip: str, shape: Sequence[int], dtype: str, num_bytes: int, *, max_bytes: int) -> bool:
        """Tells whether one more entry keeps the file within its limits; the first one always does."""
        entry = Entry(dtype, tuple(shape), self._end, self._end + num_bytes, 0)
        header_bytes = self._header_bytes + _count_header_bytes(clip, entry)
        return not self._entries or (entry.end <= max_bytes and header_bytes <= HEADER_BYTES)

    def add(self, clip: str, shape: Sequence[int], dtype: str, data: memoryview) -> None:
        """Writes one entry behind the others. Whatever stops it, those others stay whole."""
        begin = self._end
        checksum = checksum_of(clip, dtype, shape, data)
        self._write(data, at=begin)
        entry = Entry(dtype, tuple(shape), begin, begin + data.nbytes, checksum)
        self._header_bytes += _count_header_bytes(clip, entry)
        self._entries.append((clip, entry))  # one step: a signal finds the entry whole or not there

    def finish(self) -> None:
        """Writes the header and sees that every byte is on the disk; the file then only needs its final name."""
        os.ftruncate(self._file, self._end)  # what a failed write has left behind the last whole entry
        checksums = {clip: f"{entry.checksum:08x}" for clip, entry in self._entries}
        described = [(clip, entry.dtype, entry.shape) for clip, entry in self._entries]
        self._write(memoryview(make_header(described, checksums, num_bytes=HEADER_BYTES)), at=0)
        os.fsync(self._file)

    def close(self) -> None:
        """Gives the file and its lock back; the file stays."""
        os.close(self._file)

    def discard(self) -> None:
        """Removes the file."""
        self.path.unlink(missing_ok=True)
        self.close()

    def _write(self, data: memoryview, *, at: int) -> None:
        while data:  # the system takes at most 2 GiB at once, and less when the disk is nearly full
            num_written = os.pwrite(self._file, data, at)
            data, at = data[num_written:], at + num_written


def _count_header_bytes(clip: str, entry: Entry) -> int:
    """Returns the most bytes by which an entry and its checksum lengthen a header."""
    offsets = [entry.begin, entry.end]  # longer than in the header, where they count from its end
    described = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": offsets}
    return len(json.dumps({clip: described})) + len(json.dumps({clip: "0" * 8}))


def read_entries(path: Path) -> dict[str, Entry]:
    """Reads a shard's header and compares it with the file's size.

    Args:
        path: The shard.

    Returns:
        The entries by clip.

    Raises:
        FileNotFoundError: The shard is gone.
        PermissionError: We may not read it.
        DamagedShardError: The file is not what was once published.
    """
    try:
        header = read_header(path, dtypes=STORED)
        checksums = {clip: int(str(checksum), 16) for clip, checksum in header.metadata.items()}
        if [entry.name for entry in header.entries] != list(checksums):
            raise ValueError("checksums of other clips")
        if header.find_gap() is not None:
            raise ValueError("bytes that belong to no entry")
    except (FileNotFoundError, PermissionError):  # no damage to the bytes
        raise
    except OSError as error:
        raise DamagedShardError(f"a file that cannot be read: {error.strerror}") from error
    except ShortFileError as error:
        raise DamagedShardError(f"{error}") from error
    except (ValueError, AttributeError) as error:
        raise DamagedShardError("a header that cannot be understood") from error
    if header.num_file_bytes != header.end:
        reason = f"{header.num_file_bytes} bytes where its header promises {header.end}"
        raise DamagedShardError(reason, tuple(checksums))
    return {
        entry.name: Entry(entry.dtype, entry.shape, entry.begin, entry.end, checksums[entry.name])
        for entry in header.entries
    }


def map_shard(path: Path, *, size_bytes: int) -> mmap.mmap:
    """Maps a shard for reading: only what is looked at comes from the disk, and all processes share it.

    Args:
        path: The shard.
        size_bytes: What it must hold; to look behind the end of a mapped file would end the process.

    Raises:
        FileNotFoundError: The shard is gone.
        DamagedShardError: It holds another number of bytes.
    """
    with open(path, "rb") as file:
        found_bytes = os.fstat(file.fileno()).st_size
        if found_bytes != size_bytes:
            raise DamagedShardError(f"{found_bytes} bytes where there were {size_bytes}")
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def is_abandoned(path: Path) -> bool:
    """Tells whether the writer of a half-written shard is dead; False too when the file is gone."""
    try:
        with open(path, "r+b") as file:  # NFS gives this lock only to those who may write
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, FileNotFoundError):
        return False
    return True
