"""Whether every number of a weight file is one: found from the bits of its exponents, piece by piece, without torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cvft.errors import ModelError, Problem
from cvft.weights.header import Entry
from cvft.weights.shards import read_shard

PIECE_BYTES = 1 << 24

EXPONENTS = {
    "BF16": ("<u2", 0x7F80),
    "F16": ("<u2", 0x7C00),
    "F32": ("<u4", 0x7F800000),
    "F64": ("<u8", 0x7FF0000000000000),
}
"""Bits of the exponent by precision: all of them are set in infinity and nan, and in no number. Source: IEEE 754."""

NUM_NAMED = 3


def refuse_nonfinite(path: Path, *, subject: str) -> None:
    """Refuses a weight file that holds infinity or nan.

    Args:
        path: The file.
        subject: What it is, for the headline of the error.

    Raises:
        ModelError: with the tensors that are not finite, or when the file is damaged.
    """
    shard = read_shard(path)
    counts = {entry.name: count for entry in shard.entries if (count := _count_nonfinite(path, entry))}
    if not counts:
        return
    hint = "the training diverged: train again with a lower optim.learning_rate under another name (name=...)"
    problems = [
        Problem(name, f"{count} numbers that are infinite or nan", "finite ones", hint)
        for name, count in list(counts.items())[:NUM_NAMED]
    ]
    if len(counts) > NUM_NAMED:
        problems.append(Problem(f"{len(counts) - NUM_NAMED} more tensors", "the same", "finite numbers", hint))
    raise ModelError(subject, problems)


def _count_nonfinite(path: Path, entry: Entry) -> int:
    kind, exponent = EXPONENTS[entry.dtype]
    count = 0
    with path.open("rb") as file:
        file.seek(entry.begin)
        for start in range(0, entry.num_bytes, PIECE_BYTES):
            bits = np.frombuffer(file.read(min(PIECE_BYTES, entry.num_bytes - start)), dtype=kind)
            count += int(np.count_nonzero((bits & exponent) == exponent))
    return count
