"""Files that appear whole: written aside, synced and renamed; and the hash that identifies a clip by its bytes."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def write_text_atomically(path: Path, text: str) -> None:
    """Writes UTF-8 text so that a reader sees either the old file or the whole new one, whenever we are killed.

    Args:
        path: The file to write. Its folder is made when it is absent.
        text: The whole content.

    Raises:
        OSError: The folder cannot be written, or the disk is full. The old file, if any, is left as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(aside, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    if os.name == "posix":  # the rename itself lives in the folder; other systems cannot open a folder
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def hash_file(path: Path) -> str:
    """Returns the sha256 of a file's bytes as 64 hex digits, reading it in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
