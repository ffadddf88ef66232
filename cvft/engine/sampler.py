"""Which rows each rank trains in which micro-batch: the same rows in every step, for any number of ranks.

epoch's order of rows -> global batches, one per step -> micro-batches, dealt out to the ranks in turn

What ms-swift and accelerate do instead leaves rows out or repeats some when their number does not divide, and the steps
of two ranks then hold other rows than those of one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset

IGNORED_LABEL = -100
"""Label of a token that is not trained on. Source: the default of torch's cross-entropy."""


class GlobalBatchSampler:
    """Yields one rank's micro-batches of an epoch as lists of row numbers.

    Every row comes exactly once per epoch. The last global batch may be smaller; where it leaves a rank without rows,
    that rank gets a row with all labels ignored (see `RowsOrPadding`), so that all ranks do the same number of passes.

    Args:
        num_rows: Number of rows.
        global_batch_rows: Rows of a step, over all ranks.
        micro_batch_rows: Rows of one pass of one rank.
        num_ranks: Number of ranks.
        rank: This rank.
        seed: Seed of the order, drawn anew in each epoch; None keeps the order of the file.
        skip_batches: Micro-batches of this rank that are left out at the beginning, after a resume.
    """

    def __init__(
        self,
        num_rows: int,
        *,
        global_batch_rows: int,
        micro_batch_rows: int,
        num_ranks: int,
        rank: int,
        seed: int | None,
        skip_batches: int = 0,
    ) -> None:
        self.num_rows = num_rows
        self.global_batch_rows = global_batch_rows
        self.micro_batch_rows = micro_batch_rows
        self.num_ranks = num_ranks
        self.rank = rank
        self.seed = seed
        self.skip_batches = skip_batches
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch whose order is yielded next."""
        self.epoch = epoch

    def __len__(self) -> int:
        num_full, num_rest = divmod(self.num_rows, self.global_batch_rows)
        rows_per_round = self.micro_batch_rows * self.num_ranks
        num_rounds = num_full * (self.global_batch_rows // rows_per_round) + math.ceil(num_rest / rows_per_round)
        return num_rounds - self.skip_batches

    def __iter__(self) -> Iterator[list[int]]:
        batches = (batch for step in self._steps() for batch in self._share_of(step))
        for number, batch in enumerate(batches):
            if number >= self.skip_batches:
                yield batch

    def _steps(self) -> Iterator[list[int]]:
        order = list(range(self.num_rows))
        if self.seed is not None:
            generator = torch.Generator().manual_seed(self.seed + self.epoch)
            order = torch.randperm(self.num_rows, generator=generator).tolist()
        for start in range(0, self.num_rows, self.global_batch_rows):
            yield order[start : start + self.global_batch_rows]

    def _share_of(self, step: Sequence[int]) -> Iterator[list[int]]:
        size = self.micro_batch_rows
        for round_start in range(0, len(step), size * self.num_ranks):
            start = round_start + size * self.rank
            yield list(step[start : start + size]) or [padding_for(step[0])]


def padding_for(row: int) -> int:
    """Returns the number under which `RowsOrPadding` gives a row with all labels ignored."""
    return -1 - row


class RowsOrPadding(Dataset[dict[str, Any]]):
    """A data set in which a negative number names a row with all labels ignored.

    Args:
        rows: Encoded rows with `labels`, by number.
    """

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> dict[str, Any]:
        if number >= 0:
            row: dict[str, Any] = self.rows[number]
            return row
        row = self.rows[padding_for(number)]
        return {**row, "labels": [IGNORED_LABEL] * len(row["labels"])}
