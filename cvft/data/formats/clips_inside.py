"""Clips that lie inside a file of rows -> files in a folder, each named by its bytes, so that the same clip lies there once.

A name in a file of rows may lead anywhere; that of a hash leads nowhere else.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PureWindowsPath
from typing import BinaryIO

from cvft.errors import ValueProblem, quote
from cvft.files import write_whole

UNPACKED_FOLDER = ".unpacked"
"""Where clips are unpacked to for training, beside the runs."""

_ENDING = re.compile(r"\.[A-Za-z0-9]{1,5}")
_CHUNK_BYTES = 1 << 20


def keep_clip(read: Callable[[], Iterable[bytes]], folder: Path, *, ending: str) -> Path:
    """Writes a clip to a folder, whole or not at all; one that is there is not written again.

    Args:
        read: Yields its bytes from the first on, each time that it is called.
        folder: The folder; it is made when it is absent.
        ending: That of its name, with the point; `.mp4` stands in for what is none.

    Returns:
        The file, `FOLDER/ab/abcd....mp4`; absolute.

    Raises:
        OSError: when it cannot be written.
    """
    digest, num_bytes = hashlib.sha256(), 0
    for chunk in read():
        digest.update(chunk)
        num_bytes += len(chunk)
    name = digest.hexdigest()
    # folders of folders: whoever writes a file looks through its folder
    target = folder / name[:2] / f"{name}{ending if _ENDING.fullmatch(ending) else '.mp4'}"
    if not target.is_file() or target.stat().st_size != num_bytes:
        write_whole(target, read())
    return target.absolute()


def read_chunks(file: BinaryIO, start: int, num_bytes: int) -> Iterator[bytes]:
    """Yields a part of a file, piece by piece.

    Raises:
        EOFError: when the file ends before the part does.
    """
    file.seek(start)
    while num_bytes:
        chunk = file.read(min(_CHUNK_BYTES, num_bytes))
        if not chunk:
            raise EOFError
        num_bytes -= len(chunk)
        yield chunk


def leaves_root(name: str) -> bool:
    """Tells whether a name leads out of the folder that it starts from, on any system."""
    path = PureWindowsPath(name)  # reads `/` and `\\` alike
    return bool(path.anchor or path.drive) or ".." in path.parts or "\0" in name


def stay_inside(name: str) -> str:
    """Returns the name of a clip by its id, which no folder may follow out of the clips' own.

    Raises:
        ValueProblem: when it leads out of it.
    """
    if leaves_root(name):
        raise ValueProblem(f"the clip {quote(name)}, which leads out of the folder of the clips", "a name inside it")
    return name
