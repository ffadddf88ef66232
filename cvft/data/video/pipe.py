"""What the decode process and its parent say to each other, and how.

    parent  --{"clip": ..., "sampling": ...}-->  child        one JSON header each way, 4 bytes of length before it;
    parent  <--{"opened": seconds}-------------  child        frames follow their header as raw bytes
    parent  <--{"clip": {...}} + frames--------  child

Headers are JSON, not pickle: the child reads untrusted files, and nothing that it says can run code in the parent.
"""

from __future__ import annotations

import json
import math
import os
import struct
from io import FileIO
from typing import Any, Protocol

MAX_PROMISED_S = 600.0
"""A container may promise any length; beyond this one it buys no more patience."""

_MAX_HEADER_BYTES = 64 * 1024 * 1024


class RawPipe(Protocol):
    """An unbuffered binary file: it reads and writes as much as it likes at a time."""

    def readinto(self, buffer: Any, /) -> int | None:
        """Reads some bytes into `buffer` and returns how many."""

    def write(self, data: Any, /) -> int | None:
        """Writes some bytes of `data` and returns how many."""


def take_pipes() -> tuple[FileIO, FileIO]:
    """Takes a child's pipes away from its standard streams, which libraries read and print to.

    Returns:
        What the parent says, and what it hears. Nothing is left on standard input; what is printed goes to standard error.
    """
    requests, answers = FileIO(os.dup(0), "rb"), FileIO(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return requests, answers


def send_header(pipe: RawPipe, header: dict[str, Any]) -> None:
    """Writes one header.

    Raises:
        OSError: The other side ended.
    """
    body = json.dumps(header).encode()
    write_all(pipe, memoryview(struct.pack(">I", len(body)) + body))


def receive_header(pipe: RawPipe) -> dict[str, Any]:
    """Reads one header.

    Raises:
        EOFError: The other side ended.
        ValueError: What it sent is no header.
    """
    size = bytearray(4)
    read_exactly(pipe, memoryview(size))
    (num_bytes,) = struct.unpack(">I", size)
    if num_bytes > _MAX_HEADER_BYTES:
        raise ValueError(f"header of {num_bytes} bytes")
    body = bytearray(num_bytes)
    read_exactly(pipe, memoryview(body))
    header = json.loads(body)
    if not isinstance(header, dict):
        raise ValueError("header is no object")
    return header


def read_exactly(pipe: RawPipe, target: memoryview) -> None:
    """Fills a buffer. Raises EOFError when the other side ends before it is full."""
    rest = target.cast("B")
    while rest:
        num_bytes = pipe.readinto(rest)
        if not num_bytes:
            raise EOFError
        rest = rest[num_bytes:]


def write_all(pipe: RawPipe, source: memoryview) -> None:
    """Writes a whole buffer. Raises OSError when the other side ended."""
    rest = source.cast("B")
    while rest:
        rest = rest[pipe.write(rest) or 0 :]


def limit_time(timeout_s: float, promised_s: float) -> float:
    """Returns the seconds that a clip may take once its container has promised a length."""
    is_usable = math.isfinite(promised_s) and promised_s > 0
    return timeout_s + 2 * (min(promised_s, MAX_PROMISED_S) if is_usable else 0.0)
