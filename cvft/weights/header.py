"""The header of a safetensors file, read and made; what it must hold is for those who ask to judge. No torch.

8 bytes with the header's length | header: JSON, padded with spaces | the tensors' bytes. Source: safetensors' README.

Refuses: what is no header, a precision that we do not know, and an entry whose bytes do not fit its shape. What passes has the
types that safetensors' own reader asks for, so that it does not stumble over the file later.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cvft.dtypes import BY_SAFETENSORS, STORED
from cvft.errors import quote
from cvft.jsonl import parse_json

METADATA = "__metadata__"
"""Where a header holds free text."""

LENGTH_BYTES = 8
"""A file starts with the length of its header, little-endian."""

ALIGNMENT_BYTES = 8
"""The tensors start at a multiple of this."""


MAX_HEADER_BYTES = 100_000_000
"""Longest header. Source: the limit of safetensors' own reader."""

MAX_DIMENSIONS = 8
"""Most dimensions of a tensor; none of a known model has more than five."""


class ShortFileError(ValueError):
    """A file is shorter than its header would be.

    Args:
        num_bytes: Bytes of the file.
    """

    def __init__(self, num_bytes: int) -> None:
        super().__init__(f"{num_bytes} bytes, too few for its header")
        self.num_bytes = num_bytes


@dataclass(frozen=True)
class Entry:
    """A tensor in a file.

    Args:
        name: Its name.
        dtype: As safetensors names it.
        shape: Its shape.
        begin: First byte, counted from the start of the file.
        num_bytes: How many follow.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    num_bytes: int

    @property
    def end(self) -> int:
        """One past the last byte."""
        return self.begin + self.num_bytes


@dataclass(frozen=True)
class Header:
    """What a file says about itself.

    Args:
        entries: Its tensors, in the order of their bytes.
        metadata: Free text.
        num_bytes: Bytes of the header, its length included: where the first tensor starts.
        num_file_bytes: Bytes of the whole file, as they were found.
    """

    entries: Sequence[Entry]
    metadata: Mapping[str, str]
    num_bytes: int
    num_file_bytes: int

    @property
    def end(self) -> int:
        """Bytes that the file must have."""
        return max((entry.end for entry in self.entries), default=self.num_bytes)

    def find_gap(self) -> tuple[Entry, int] | None:
        """Returns the first entry that does not start where the one before it ends, and that place; else None."""
        end = self.num_bytes
        for entry in self.entries:
            if entry.begin != end:
                return entry, end
            end = entry.end
        return None


def read_header(path: Path, *, dtypes: Collection[str] = BY_SAFETENSORS.keys()) -> Header:
    """Reads a file's header and nothing else of it.

    Args:
        path: The file.
        dtypes: Those that its tensors may have, as safetensors names them.

    Raises:
        OSError: It cannot be read.
        ShortFileError: It is shorter than its header would be.
        ValueError: It does not start with a header, or an entry makes no sense.
    """
    with open(path, "rb") as file:
        num_file_bytes = os.fstat(file.fileno()).st_size
        num_bytes = LENGTH_BYTES + int.from_bytes(file.read(LENGTH_BYTES), "little")
        if num_bytes > num_file_bytes:
            raise ShortFileError(num_file_bytes)
        if num_bytes - LENGTH_BYTES > MAX_HEADER_BYTES:
            raise ValueError(f"{num_bytes - LENGTH_BYTES:,} bytes of header, more than {MAX_HEADER_BYTES:,}")
        text = file.read(num_bytes - LENGTH_BYTES)
    described = parse_json(text)
    if not isinstance(described, dict):
        raise ValueError("no object of tensors")
    metadata = described.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError(f"{METADATA} that is no object of texts")
    entries = [_read_entry(name, values, num_bytes, dtypes) for name, values in described.items()]
    entries.sort(key=lambda entry: entry.begin)  # stable: entries without a byte keep their order
    return Header(tuple(entries), metadata, num_bytes, num_file_bytes)


def _read_entry(name: str, values: Any, first_byte: int, dtypes: Collection[str]) -> Entry:
    if not isinstance(values, dict) or values.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{name} without exactly dtype, shape and data_offsets")
    dtype, shape, offsets = values["dtype"], values["shape"], values["data_offsets"]
    if not isinstance(dtype, str) or dtype not in dtypes:
        raise ValueError(f"{name} is {dtype}, not one of {', '.join(dtypes)}")
    if not _are_counts(shape) or len(shape) > MAX_DIMENSIONS:
        raise ValueError(f"{name}: {quote(shape)} is no shape")
    if not _are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ValueError(f"{name}: {quote(offsets)} are no data_offsets")
    begin, end = offsets
    if end - begin != count_bytes(dtype, shape):
        raise ValueError(f"{name}: {end - begin} bytes for shape {shape} in {dtype}")
    return Entry(name, dtype, tuple(shape), first_byte + begin, end - begin)


def _are_counts(values: Any) -> bool:
    """Tells whether a value is a list of numbers that a file can have of something."""
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 1 << 63 for value in values)


def make_header(
    entries: Iterable[tuple[str, str, Sequence[int]]], metadata: Mapping[str, str], *, num_bytes: int | None = None
) -> bytes:
    """Makes the header of a file.

    Args:
        entries: Name, dtype and shape of each tensor, in the order in which their bytes will follow.
        metadata: Free text.
        num_bytes: Bytes that the header shall have, its length included; by default it takes what it needs.

    Returns:
        Length and header, padded with spaces so that the tensors start at a multiple of 8 bytes, or at `num_bytes`.

    Raises:
        ValueError: It needs more than `num_bytes`.
    """
    header: dict[str, Any] = {METADATA: dict(metadata)} if metadata else {}
    end = 0
    for name, dtype, shape in entries:
        begin, end = end, end + count_bytes(dtype, shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    room = len(text) + -len(text) % ALIGNMENT_BYTES if num_bytes is None else num_bytes - LENGTH_BYTES
    if len(text) > room:
        raise ValueError(f"a header of {len(text)} bytes, with room for {room}")
    return room.to_bytes(LENGTH_BYTES, "little") + text.ljust(room)


def count_bytes(dtype: str, shape: Sequence[int]) -> int:
    """Returns the bytes of a tensor whose dtype has safetensors' name."""
    return STORED[dtype].num_bytes * math.prod(shape)
