"""The rotary tables of a checkpoint, held against the base of their frequencies. No torch.

weight files -> one table per decoder block -> is it base ** (-2i / width of a head), as far as its precision shows?

The published code writes base 500,000 down and config.json does not; each decoder block has a table of its own in the files.
In `rope_precision: checkpoint` that table rotates. In `fp32` it is the one that it is a rounding of: computed from the base
where the base explains it, and itself where it is stored in full precision.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cvft.errors import ModelError, Problem
from cvft.families.cogvlm2_video.tensors import ROPE_THETA
from cvft.weights.header import Entry
from cvft.weights.shards import Shard

TABLE_NAME = "rotary_emb.inv_freq"

TOLERANCE = {"BF16": 2.0**-7, "F16": 2.0**-9, "F32": 1e-5, "F64": 1e-5}
"""Largest relative difference of an entry from its exact value, by precision: roundings of its own and of one more step."""

SMALLEST = {"BF16": 2.0**-126, "F16": 2.0**-14}
"""Below this, entries of a half precision lose digits; they say nothing of the base."""


def theta_of(config: Mapping[str, Any]) -> float:
    """Returns the base of the rotary frequencies: what config.json states, or what the published code does."""
    return float(config.get("rope_theta", ROPE_THETA))


def check_tables(
    config: Mapping[str, Any], read: Callable[[], Sequence[Shard]], *, rope_precision: str
) -> dict[str, list[float]]:
    """Holds the tables of a checkpoint against its base.

    Args:
        config: Values of a checked config.json.
        read: Reads its weight files' headers; called only where there is something to compare.
        rope_precision: `checkpoint` or `fp32`.

    Returns:
        The tables, by their names, that the base does not explain and that stand for themselves in `fp32`.

    Raises:
        ModelError: when config.json states a base that is not the tables'; when `fp32` is asked for and a table in half precision
            is none of the base.
    """
    states_theta = "rope_theta" in config
    if not states_theta and rope_precision != "fp32":
        return {}
    theta = theta_of(config)
    unexplained: dict[str, list[float]] = {}
    for shard in read():
        for entry in shard.entries:
            if not entry.name.endswith(TABLE_NAME):
                continue
            table = _read(shard, entry)
            precision = _precision_of(table, entry.dtype)
            if _explains(theta, table, precision):
                continue
            if states_theta or precision in SMALLEST:
                raise _refuse(shard, entry, table, theta, precision=precision, states_theta=states_theta)
            unexplained[entry.name] = table
    return unexplained


def _refuse(
    shard: Shard, entry: Entry, table: Sequence[float], theta: float, *, precision: str, states_theta: bool
) -> ModelError:
    guess = f"{table[-1] ** (-len(table) / (len(table) - 1)):,.0f}" if len(table) > 1 and table[-1] > 0 else "another"
    got = f"a table of base {guess}, by its last entry"
    subject = f"model {shard.path.parent}"
    if states_theta:
        need = f"base {theta:,g}, as config.json: rope_theta says"
        return ModelError(
            subject, [Problem(f"{shard.path.name}: {entry.name}", got, need, "are both of one download?")]
        )
    need = f"one of base {theta:,g}: in {precision} it does not say exactly which it is"
    hint = "state `rope_theta` in config.json, or use model.rope_precision=checkpoint, which rotates by the table"
    return ModelError(subject, [Problem(f"{shard.path.name}: {entry.name}", got, need, hint)])


def _precision_of(table: Sequence[float], dtype: str) -> str:
    """Returns the precision that a table was rounded to: one of half precision may lie in a file of full precision."""
    for name in () if dtype in SMALLEST else SMALLEST:
        if all(_round(value, name) == value for value in table):
            return name
    return dtype


def _round(value: float, precision: str) -> float:
    try:
        if precision == "F16":
            return float(struct.unpack("<e", struct.pack("<e", value))[0])
        return float(
            struct.unpack("<f", b"\0\0" + struct.pack("<f", value)[2:])[0]
        )  # cut, which is exact where nothing is lost
    except OverflowError:
        return -value


def _explains(theta: float, table: Sequence[float], dtype: str) -> bool:
    tolerance, smallest = TOLERANCE[dtype], SMALLEST.get(dtype, 0.0)
    exact = [theta ** (-index / len(table)) for index in range(len(table))]
    return all(
        abs(value - wanted) <= tolerance * wanted or (wanted < smallest and abs(value) < 2 * smallest)
        for value, wanted in zip(table, exact, strict=True)
    )


def _read(shard: Shard, entry: Entry) -> list[float]:
    with shard.path.open("rb") as file:
        file.seek(entry.begin)
        data = file.read(entry.num_bytes)
    if entry.dtype == "BF16":  # the upper half of an fp32 number
        data = b"".join(b"\0\0" + data[start : start + 2] for start in range(0, len(data), 2))
    code = {"BF16": "f", "F16": "e", "F32": "f", "F64": "d"}[entry.dtype]
    return list(struct.unpack(f"<{len(data) // struct.calcsize(code)}{code}", data))
