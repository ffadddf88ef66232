"""Groups of a step -> micro-batches of similar length, within a limit -> shared out to the ranks in turn.

Pure, like `cvft.data.groups`: a plan counts exactly the micro-batches that a run will do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cvft.data.groups import Group, RowShape, group_tokens

MicroBatch = tuple[Group, ...]
"""Groups that a rank computes in one pass. A negative number stands for a row with all labels ignored; see `padding_for`."""


@dataclass(frozen=True)
class BatchLimits:
    """What may go together.

    Args:
        global_batch_rows: Rows of a step, over all ranks.
        max_rows_per_group: Most rows of a group; 1 keeps all rows apart.
        micro_batch_rows: Most rows of a micro-batch, when all rows are apart.
        micro_batch_tokens: Most tokens of a micro-batch, padding included, when they are not; one group always fits.
    """

    global_batch_rows: int
    max_rows_per_group: int
    micro_batch_rows: int
    micro_batch_tokens: int


def pack(
    groups: Sequence[Group], shapes: Sequence[RowShape], *, limits: BatchLimits, num_ranks: int
) -> list[list[MicroBatch]]:
    """Shares out the groups of a step.

    Args:
        groups: The groups.
        shapes: All rows.
        limits: What fits in a micro-batch.
        num_ranks: Number of ranks.

    Returns:
        Micro-batches per rank, the longest first. All ranks get the same number; one without rows gets a padding row.
    """
    by_length = sorted(groups, key=lambda group: -group_tokens(group, shapes))
    batches: list[list[Group]] = []
    for group in by_length:
        if batches and _fits(batches[-1], shapes, limits):
            batches[-1].append(group)
        else:
            batches.append([group])
    num_wanted = math.ceil(len(batches) / num_ranks) * num_ranks
    while len(batches) < num_wanted and _split_one(batches, shapes):
        pass
    batches += [[(padding_for(groups[0][0]),)]] * (num_wanted - len(batches))
    return [[tuple(batch) for batch in batches[rank::num_ranks]] for rank in range(num_ranks)]


def _fits(batch: Sequence[Group], shapes: Sequence[RowShape], limits: BatchLimits) -> bool:
    """Tells whether one more group, not longer than the first, fits."""
    if limits.max_rows_per_group == 1:
        return len(batch) < limits.micro_batch_rows
    return (len(batch) + 1) * group_tokens(batch[0], shapes) <= limits.micro_batch_tokens


def _split_one(batches: list[list[Group]], shapes: Sequence[RowShape]) -> bool:
    """Halves the largest batch, or else the largest group, for a rank that would have nothing to do."""
    number = max(range(len(batches)), key=lambda i: (len(batches[i]), max(map(len, batches[i])), -i))
    batch = batches[number]
    if len(batch) > 1:
        halves = [batch[: len(batch) // 2], batch[len(batch) // 2 :]]
    else:
        (group,) = batch
        if len(group) == 1:
            return False
        halves = [[group[: len(group) // 2]], [group[len(group) // 2 :]]]
    batches[number : number + 1] = halves
    return True


def padding_for(row: int) -> int:
    """Returns the number under which `GroupedRows` gives a row with all labels ignored."""
    return -1 - row
