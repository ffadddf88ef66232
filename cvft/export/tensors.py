"""Verification of merged weights in their files: sampled tensors against base + update, computed anew in fp64.

It needs the memory of one layer, so it is done for every merge; logits are compared as well where the model fits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cvft.errors import Problem, VerifyError
from cvft.export.adapter import Adapter
from cvft.export.merge import read_pieces, read_tensor, torch_dtype
from cvft.plan.job import OpenModel
from cvft.weights.header import Entry
from cvft.weights.shards import Shard, read_shards

NUM_SAMPLED = 8
"""Tensors compared of those that the adapter changes, and as many of those that it does not."""

ROUNDING = {"BF16": 2.0**-8, "F32": 2.0**-24}
"""Largest relative error of rounding a number to a precision once: half the distance to the next one."""

FP32_NOISE = 2.0**-19
"""Relative error allowed for what peft computes in fp32 before rounding: products of B and A, and DoRA's norms over a row.
Measured on random adapters: up to a quarter of it."""


@dataclass(frozen=True)
class TensorCheck:
    """The outcome, stored beside the merged weights.

    Args:
        num_changed: Tensors that the adapter changes.
        num_compared: Tensors that were compared, of both kinds.
        max_error_share: Largest error of an element, as a share of what rounding explains; at most 1.
    """

    num_changed: int
    num_compared: int
    max_error_share: float

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values for JSON."""
        return asdict(self)


def compare_tensors(base: OpenModel, *, adapter_folder: Path, merged_folder: Path) -> TensorCheck:
    """Holds sampled tensors of a merged folder against base + update.

    Args:
        base: The base.
        adapter_folder: The adapter.
        merged_folder: The merged weights.

    Returns:
        The numbers.

    Raises:
        ModelError: when a folder is damaged, or does not hold exactly the model's tensors.
        VerifyError: with every sampled tensor that is not what it should be.
    """
    need, family = base.family.tensors(base.folder.config), base.family
    before = _by_name(base.shards or read_shards(base.path, need))
    merged = _by_name(read_shards(merged_folder, need))
    shapes = {name: entry.shape for name, (_, entry) in before.items()}
    adapter = Adapter(adapter_folder, shapes=shapes, module_of=family.module_of)
    of_adapter = set(adapter.changed)
    changed = [name for name in before if name in of_adapter]
    untouched = [name for name in before if name not in of_adapter]
    sampled = [*_spread(changed), *_spread(untouched)]
    shares = {}
    for name in sampled:
        if name in changed:
            weight, got = read_tensor(*before[name]), read_tensor(*merged[name])
            shares[name] = _error_share(adapter, name, weight, got, merged[name][1].dtype)
        else:
            shares[name] = 0.0 if _are_equal(before[name], merged[name]) else float("inf")
    hint = "the merged weights are not base + adapter; nothing was kept under the final name"
    limit = "at most the rounding of the merged precision"
    problems = [
        Problem(
            name, "another tensor than the base's" if share == float("inf") else f"{share:.3g} times it", limit, hint
        )
        for name, share in shares.items()
        if not share <= 1  # so that NaN fails
    ]
    if problems:
        raise VerifyError("the merged weights", problems)
    return TensorCheck(len(changed), len(sampled), max(shares.values()))


def _by_name(shards: Sequence[Shard]) -> dict[str, tuple[Shard, Entry]]:
    return {entry.name: (shard, entry) for shard in shards for entry in shard.entries}


def _spread(names: Sequence[str]) -> list[str]:
    count = min(len(names), NUM_SAMPLED)
    return [names[index * (len(names) - 1) // max(count - 1, 1)] for index in range(count)]


def _are_equal(base: tuple[Shard, Entry], merged: tuple[Shard, Entry]) -> bool:
    pieces = zip(read_pieces(*base), read_pieces(*merged), strict=True)
    return all(torch.equal(piece.to(other.dtype), other) for piece, other in pieces)


def _error_share(adapter: Adapter, name: str, weight: Tensor, got: Tensor, dtype: str) -> float:
    """Largest error of an element as a share of what rounding explains; W + sBA, or m (W + sBA) / |W + sBA| with DoRA."""
    parts = {part: tensor.double() for part, tensor in adapter.parts_of(name).items()}
    down, up = parts["lora_A.weight"], parts["lora_B.weight"]
    weight = weight.to(torch_dtype(dtype)).double()
    update = adapter.scale * (up @ down)
    noise = adapter.scale * (up.abs() @ down.abs())
    exact = weight + update
    if "lora_magnitude_vector" in parts:
        factor = (parts["lora_magnitude_vector"] / exact.norm(dim=1))[:, None]
        exact = factor * exact
        weight, update, noise = factor * weight, factor * update, factor * noise + exact.abs()
    allowed = ROUNDING[dtype] * (weight.abs() + update.abs() + exact.abs()) + FP32_NOISE * noise
    error = (got.double() - exact).abs()
    return (error / allowed.clamp_min(torch.finfo(torch.float64).tiny)).max().item()
