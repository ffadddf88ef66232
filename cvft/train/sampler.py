"""Which groups each rank trains in which micro-batch: the same rows in every step, for any number of ranks.

step's groups (`cvft.data.groups`) -> this rank's micro-batches (`cvft.data.packing`) -> encoded and joined sequences

What ms-swift and accelerate do instead leaves rows out or repeats some when their number does not divide, and the steps
of two ranks then hold other rows than those of one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from cvft.data.groups import FileShare, RowShape, count_rows, make_steps
from cvft.data.packing import BatchLimits, MicroBatch, pack, padding_for
from cvft.families.family import IGNORED_LABEL
from cvft.families.runtime import Encoder


class GlobalBatchSampler:
    """Yields one rank's micro-batches of each step of an epoch.

    Every row comes exactly once per epoch, or as often as the weight of its file says. The last step may hold fewer rows.

    Args:
        shapes: All rows.
        limits: What may go together.
        num_ranks: Number of ranks.
        rank: This rank.
        seed: Seed of the order, drawn anew in each epoch; None keeps the order of the file.
        skip_batches: Steps that are left out at the beginning, after a resume.
        mix: How often rows come; see `cvft.data.groups.rows_of_epoch`.
    """

    def __init__(
        self,
        shapes: Sequence[RowShape],
        *,
        limits: BatchLimits,
        num_ranks: int,
        rank: int,
        seed: int | None,
        skip_batches: int = 0,
        mix: Sequence[FileShare] = (),
    ) -> None:
        self.shapes = shapes
        self.mix = mix
        self.limits = limits
        self.num_ranks = num_ranks
        self.rank = rank
        self.seed = seed
        self.skip_batches = skip_batches
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch whose order is yielded next."""
        self.epoch = epoch

    def __len__(self) -> int:
        num_rows = count_rows(len(self.shapes), self.mix)
        return math.ceil(num_rows / self.limits.global_batch_rows) - self.skip_batches

    def __iter__(self) -> Iterator[list[MicroBatch]]:
        steps = make_steps(
            self.shapes,
            global_batch_rows=self.limits.global_batch_rows,
            max_rows_per_group=self.limits.max_rows_per_group,
            seed=self.seed,
            epoch=self.epoch,
            mix=self.mix,
        )
        for number, step in enumerate(steps):
            if number >= self.skip_batches:
                yield pack(step, self.shapes, limits=self.limits, num_ranks=self.num_ranks)[self.rank]


class GroupedRows(Dataset[list[dict[str, Tensor]]]):
    """A data set whose items are micro-batches: each group of rows as one sequence.

    Args:
        rows: Encoded rows by number: their sequences as lists or tensors, their clip as a tensor.
        encoder: Joins rows of one clip.
    """

    def __init__(self, rows: Any, *, encoder: Encoder) -> None:
        self.rows = rows
        self.encoder = encoder

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, batch: MicroBatch) -> list[dict[str, Tensor]]:
        return [self.encoder.join([self._row(number) for number in group]) for group in batch]

    def _row(self, number: int) -> dict[str, Tensor]:
        row: Mapping[str, Any] = self.rows[number if number >= 0 else padding_for(number)]
        tensors = {key: torch.tensor(row[key]) for key in ("input_ids", "labels")}
        tensors |= {key: value for key, value in row.items() if isinstance(value, Tensor)}
        if number < 0:
            tensors["labels"] = torch.full_like(tensors["labels"], IGNORED_LABEL)
        return tensors
