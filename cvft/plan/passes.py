"""What the micro-batches of an epoch will feed, counted from the shapes of the rows in the order in which they will come.

shapes + limits -> steps -> micro-batches of all ranks -> `Batch` each, for the models of memory and FLOPs
"""

from __future__ import annotations

from collections.abc import Sequence

from cvft.data.groups import FileShare, Group, RowShape, group_tokens, make_steps
from cvft.data.packing import BatchLimits, MicroBatch, pack
from cvft.families.costs import Batch, ClipShape, GroupShape, causal_pairs


def batches_of_epoch(
    shapes: Sequence[RowShape],
    *,
    limits: BatchLimits,
    num_ranks: int,
    seed: int,
    caches: bool,
    epoch: int = 0,
    mix: Sequence[FileShare] = (),
) -> list[Batch]:
    """Counts every pass of an epoch on every rank.

    Args:
        shapes: The train rows.
        limits: Which of them go together.
        num_ranks: Number of ranks.
        seed: Seed of the order.
        caches: Whether frames come as stored features, so that none pass through the tower.
        epoch: Which pass over the rows it is.
        mix: How often rows come; see `cvft.data.groups.rows_of_epoch`.

    Returns:
        The micro-batches; padding of ranks that have no rows is left out.
    """
    steps = make_steps(
        shapes,
        global_batch_rows=limits.global_batch_rows,
        max_rows_per_group=limits.max_rows_per_group,
        seed=seed,
        epoch=epoch,
        mix=mix,
    )
    return [
        count_batch(batch, shapes, caches=caches)
        for step in steps
        for of_rank in pack(step, shapes, limits=limits, num_ranks=num_ranks)
        for batch in of_rank
        if batch[0][0] >= 0
    ]


def count_batch(batch: MicroBatch, shapes: Sequence[RowShape], *, caches: bool) -> Batch:
    """Counts one pass: its sequences are padded to the longest, and a mask makes the kernel compute every pair."""
    lengths = [group_tokens(group, shapes) for group in batch]
    length = max(lengths)
    has_mask = min(lengths) < length or any(len(group) > 1 for group in batch)
    num_frames = sum(sum(shapes[group[0]].num_frames) for group in batch)
    num_cells = len(batch) * length**2
    return Batch(
        num_sequences=len(batch),
        num_tokens=len(batch) * length,
        num_pairs=num_cells if has_mask else len(batch) * causal_pairs(length),
        num_label_tokens=sum(shapes[row].num_label_tokens for group in batch for row in group),
        num_tower_frames=0 if caches else num_frames,
        num_projected_frames=num_frames,
        num_mask_cells=num_cells if has_mask else 0,
        groups=tuple(_shape_of(group, shapes) for group in batch),
    )


def _shape_of(group: Group, shapes: Sequence[RowShape]) -> GroupShape:
    """Counts one sequence."""
    first = shapes[group[0]]
    clips = tuple(ClipShape(*each) for each in zip(first.num_frames, first.num_clip_tokens, strict=True))
    return GroupShape(first.num_prefix_tokens, tuple(shapes[row].num_question_tokens for row in group), clips)
