"""Verification of merged weights in their files: every tensor against base + adapter, while both stream by.

base + adapter -> numbers of changed tensors recomputed in fp64, the bits of all others compared -> `TensorCheck`

It needs the memory of a few rows of one tensor, so it is done for every merge. Nothing is sampled.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cvft.dtypes import BY_NAME, BY_SAFETENSORS
from cvft.errors import ModelError, Problem, VerifyError, quote
from cvft.export.adapter import Adapter
from cvft.export.merge import PIECE_ITEMS, read_pieces, torch_dtype
from cvft.families.weight_files import read_model_shards
from cvft.plan.job import OpenModel
from cvft.weights.header import Entry
from cvft.weights.shards import Shard, read_shards, weight_files

BLOCK_ITEMS = 1 << 20
"""Numbers of a changed tensor that are recomputed at a time: a fp64 array of them takes 8 MiB, and there are about ten."""

FP32_UNIT = 2.0**-24
"""Largest relative error of one operation in fp32, in which a merge is computed before its result is rounded once."""

NUM_NAMED = 8
"""Tensors that an error names one by one."""

HINT = "the merged weights are not base + adapter; nothing was kept under the final name"


@dataclass(frozen=True)
class TensorCheck:
    """The outcome, stored beside the merged weights.

    Args:
        num_changed: Tensors that the adapter changes, each number of them recomputed, or replaces, with its bits.
        num_compared: Tensors that were compared, of both kinds: all that the model has.
        max_error_share: Largest error of a number, as a share of what rounding it explains; at most 1.
    """

    num_changed: int
    num_compared: int
    max_error_share: float

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class _Compared:
    """One tensor's outcome: how far it is off, and where that is first more than what rounding explains."""

    max_error_share: float = 0.0
    num_wrong: int = 0
    first: str = ""


def compare_tensors(base: OpenModel, *, adapter_folder: Path, merged_folder: Path, dtype: str) -> TensorCheck:
    """Holds every tensor of a merged folder against base + adapter.

    A number of a changed tensor may lie half a unit in the last place of the merged precision from the exact sum, and beyond
    that only what fp32 makes of the sum itself: it is the exact sum, rounded once. All other tensors have the bits of the base,
    or of the adapter where it replaces them, or those of its numbers in the merged precision.

    Args:
        base: The base.
        adapter_folder: The adapter.
        merged_folder: The merged weights.
        dtype: Their precision: `bf16`, `fp16` or `fp32`.

    Returns:
        The numbers.

    Raises:
        ModelError: when base or adapter are damaged.
        VerifyError: with every tensor that is not what it should be: missing, too many, misplaced, of another shape or
            precision, or with other numbers.
    """
    shards = list(base.shards or read_model_shards(base.folder, base.family))
    merged = _read_merged(merged_folder, shards, stored_dtype=BY_NAME[dtype].safetensors)
    shapes = {entry.name: entry.shape for shard in shards for entry in shard.entries}
    adapter = Adapter(adapter_folder, parts=base.family.parts, shapes=shapes, module_of=base.family.module_of)
    changed = set(adapter.changed)
    wrong: list[Problem] = []
    num_wrong, largest = 0, 0.0
    for shard in shards:
        for entry in shard.entries:
            both = (shard, entry), merged[entry.name]
            if entry.name in changed:
                compared = _recompute(adapter, *both)
            elif entry.name in adapter.replaced:
                compared = _compare_bits(
                    torch.split(adapter.replaced[entry.name].flatten(), PIECE_ITEMS), entry, both[1]
                )
            else:
                compared = _compare_bits(read_pieces(*both[0]), entry, both[1])
            if compared.num_wrong:
                num_wrong += 1
                if num_wrong <= NUM_NAMED:
                    owner = "" if entry.name in changed else "adapter" if entry.name in adapter.replaced else "base"
                    wrong.append(_describe(entry, compared, dtype=dtype, owner=owner))
            largest = max(largest, compared.max_error_share)
    if num_wrong > NUM_NAMED:
        wrong.append(Problem(f"{num_wrong - NUM_NAMED} more tensors", "the same", "base + adapter", HINT))
    if wrong:
        raise VerifyError("the merged weights", wrong)
    return TensorCheck(len(changed) + len(adapter.replaced), len(shapes), largest)


def _read_merged(folder: Path, base: Sequence[Shard], *, stored_dtype: str) -> dict[str, tuple[Shard, Entry]]:
    """Proves from the headers that a folder holds the base's tensors in the base's files, all in one precision."""
    need = {entry.name: entry.shape for shard in base for entry in shard.entries}
    try:
        merged = read_shards(folder, need)
    except ModelError as error:
        problems = [Problem(each.where, each.got, each.need, HINT) for each in error.problems]
        raise VerifyError("the merged weights", problems) from error
    files = {entry.name: shard.path.name for shard in base for entry in shard.entries}
    problems = [
        Problem(f"{shard.path.name}: {entry.name}", got, wanted, HINT)
        for shard in merged
        for entry in shard.entries
        for got, wanted in ((entry.dtype, stored_dtype), (shard.path.name, files[entry.name]))
        if got != wanted
    ]
    names, wanted_names = ([path.name for path in weight_files(each)] for each in (folder, base[0].path.parent))
    if names != wanted_names:
        problems.append(Problem("weights", quote(names), quote(wanted_names), HINT))
    if problems:
        raise VerifyError("the merged weights", problems[:NUM_NAMED])
    return {entry.name: (shard, entry) for shard in merged for entry in shard.entries}


def _describe(entry: Entry, compared: _Compared, *, dtype: str, owner: str) -> Problem:
    """Describes a tensor that is wrong; `owner` is whose bits it should have, `base` or `adapter`, or empty for their sum."""
    total = torch.Size(entry.shape).numel()
    got = f"{compared.num_wrong} of {total} numbers that are {{}} ({compared.first})"
    if not owner:
        return Problem(entry.name, got.format("not base + adapter"), f"that sum, rounded once to {dtype}", HINT)
    need = f"the {owner}'s tensor in {dtype}"
    need += ": no adapter changes it" if owner == "base" else ", which replaces the base's"
    return Problem(entry.name, got.format(f"not the {owner}'s"), need, HINT)


def _compare_bits(pieces: Iterable[Tensor], entry: Entry, merged: tuple[Shard, Entry]) -> _Compared:
    """Compares a tensor that nothing is added to: equal bits, after the one cast where the precisions differ."""
    num_wrong, seen, first = 0, 0, ""
    for piece, other in zip(pieces, read_pieces(*merged), strict=True):
        wanted = piece.to(other.dtype)
        differs = (_bits(wanted) != _bits(other)).nonzero().flatten()
        if len(differs) and not num_wrong:
            at = int(differs[0])
            first = _first(seen + at, entry.shape, got=other[at], wanted=wanted[at])
        num_wrong += len(differs)
        seen += len(piece)
    return _Compared(num_wrong=num_wrong, first=first)


def _bits(numbers: Tensor) -> Tensor:
    return numbers.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[numbers.element_size()])


def _recompute(adapter: Adapter, base: tuple[Shard, Entry], merged: tuple[Shard, Entry]) -> _Compared:
    """Recomputes a changed tensor in fp64, some rows at a time: W + sBA, or m (W + sBA) / |W + sBA| with DoRA."""
    shape = base[1].shape
    parts = {part: tensor.double() for part, tensor in adapter.parts_of(base[1].name).items()}
    largest, num_wrong, start, first = 0.0, 0, 0, ""
    for weight, got in zip(read_rows(*base), read_rows(*merged), strict=True):
        exact, noise = _merge_exactly(
            weight.double(), parts, scale=adapter.scale, rows=slice(start, start + len(weight))
        )
        allowed = half_ulp(exact.abs() + noise, dtype=got.dtype) + noise
        # not `>`, so that NaN is wrong
        share = (got.double() - exact).abs() / allowed
        is_wrong = ~(share <= 1)
        if is_wrong.any() and not num_wrong:
            row, column = map(int, is_wrong.nonzero()[0])
            place = (start + row) * shape[1] + column
            first = _first(place, shape, got=got[row, column], wanted=exact[row, column])
        num_wrong += int(is_wrong.sum())
        largest = max(largest, share.max().item())
        start += len(weight)
    return _Compared(largest, num_wrong, first)


def read_rows(shard: Shard, entry: Entry) -> Iterator[Tensor]:
    """Reads a matrix of a weight file some rows at a time: about `BLOCK_ITEMS` numbers, and at least one row."""
    num_rows, num_columns = entry.shape
    step = max(1, BLOCK_ITEMS // num_columns)
    row_bytes = num_columns * BY_SAFETENSORS[entry.dtype].num_bytes
    with shard.path.open("rb") as file:
        file.seek(entry.begin)
        for start in range(0, num_rows, step):
            count = min(step, num_rows - start)
            data = bytearray(file.read(count * row_bytes))
            yield torch.frombuffer(data, dtype=torch_dtype(entry.dtype)).reshape(count, num_columns)


def _merge_exactly(weight: Tensor, parts: Mapping[str, Tensor], *, scale: float, rows: slice) -> tuple[Tensor, Tensor]:
    """Merges some rows in fp64, and bounds what computing the same in fp32 adds to it.

    Each of the rank products and sums of BA, the scale and the last sum round once. DoRA's norm adds up a whole row: its
    rounding errors are of both signs, so they grow with the square root of the row's length.
    """
    down, up = parts["lora_A.weight"], parts["lora_B.weight"][rows]
    update = scale * (up @ down)
    exact = weight + update
    noise = FP32_UNIT * ((len(down) + 4) * abs(scale) * (up.abs() @ down.abs()) + weight.abs() + exact.abs())
    if "lora_magnitude_vector" in parts:
        factor = (parts["lora_magnitude_vector"][rows] / exact.norm(dim=1))[:, None]
        exact = factor * exact
        noise = factor.abs() * noise + FP32_UNIT * (8 + weight.shape[1] ** 0.5) * exact.abs()
    return exact, noise


def half_ulp(numbers: Tensor, *, dtype: torch.dtype) -> Tensor:
    """Returns the largest error of rounding positive fp64 numbers once to a precision: half the distance to the next one."""
    precision = torch.finfo(dtype)
    num_digits = 1 - round(
        torch.tensor(precision.eps).log2().item()
    )  # of the significand: 8 in bf16, 11 in fp16, 24 in fp32
    _, exponent = torch.frexp(numbers.clamp_min(precision.smallest_normal))  # below it, the distance stays the same
    return torch.ldexp(torch.ones_like(numbers), exponent - 1 - num_digits)


def _first(place: int, shape: Sequence[int], *, got: Tensor, wanted: Tensor) -> str:
    index = []
    for size in reversed(shape):
        place, inner = divmod(place, size)
        index.append(inner)
    return f"first {list(reversed(index))}: {got.item():.9g} instead of {wanted.item():.9g}"
