"""Which rows train together: the rows of an epoch in shuffled steps, those of one clip side by side.

rows of each file x its weight -> rows of an epoch -> chunks of rows that share a clip -> shuffled -> steps of a fixed number of
rows, as groups

A pure function of shapes and seed, so that a plan counts exactly what a run will do.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

Group = tuple[int, ...]
"""Numbers of rows that share their clips and what stands before them, and train as one sequence; or of one row."""


Shared = tuple[tuple[int, ...], int | None]
"""Numbers of clips, and of the system text before them."""


@dataclass(frozen=True)
class FileShare:
    """How often the rows of one file come.

    Args:
        num_rows: Its rows, which follow those of the file before.
        weight: How often each of them comes in an epoch, more than 0.
        name: Its name, for people.
    """

    num_rows: int
    weight: float = 1.0
    name: str = ""

    @property
    def num_per_epoch(self) -> int:
        """Rows of it in an epoch: the weighted number, rounded."""
        return round(self.weight * self.num_rows)


@dataclass(frozen=True)
class RowShape:
    """What batching needs to know of a row.

    Args:
        clips: Numbers of its clips, in their order; none for a row of text only.
        num_prefix_tokens: Tokens up to the last clip's last: BOS, a system text, the clips.
        num_question_tokens: The rest, answer and EOS included.
        num_label_tokens: Answer and EOS.
        num_frames: Frames of each of its clips.
        num_clip_tokens: Tokens that stand for each.
        system: Number of its own system text; None where it has none.
    """

    clips: tuple[int, ...]
    num_prefix_tokens: int
    num_question_tokens: int
    num_label_tokens: int = 0
    num_frames: tuple[int, ...] = ()
    num_clip_tokens: tuple[int, ...] = ()
    system: int | None = None

    @property
    def shared(self) -> Shared | None:
        """What rows share that may train together: all clips, and the system text before them; None for a row of text only."""
        return (self.clips, self.system) if self.clips else None

    @property
    def num_tokens(self) -> int:
        """Tokens of the row alone."""
        return self.num_prefix_tokens + self.num_question_tokens

    @property
    def num_prompt_tokens(self) -> int:
        """Tokens of the row without its answer."""
        return self.num_tokens - self.num_label_tokens

    @property
    def has_question(self) -> bool:
        """Whether any text stands between prefix and answer. Without, the answer's first token follows the prefix at once: the
        prefix cannot be shared with other rows, for its last token could predict only one of their first tokens.
        """
        return self.num_question_tokens > self.num_label_tokens


def group_tokens(group: Group, shapes: Sequence[RowShape]) -> int:
    """Counts the tokens of a group: its prefix once, and every question."""
    return shapes[group[0]].num_prefix_tokens + sum(shapes[row].num_question_tokens for row in group)


def most_rows_per_clip(shapes: Sequence[RowShape]) -> int:
    """Returns how many rows that may train together the clips with the most of them have; 1 when no two rows may."""
    counts: dict[Shared, int] = defaultdict(int)
    for shape in shapes:
        if shape.shared is not None and shape.has_question:
            counts[shape.shared] += 1
    return max(counts.values(), default=1)


def encodes_a_clip_again(shapes: Sequence[RowShape], *, max_rows_per_group: int) -> bool:
    """Tells whether some clip comes in more than one group of an epoch."""
    num_groups: dict[int, int] = defaultdict(int)
    num_together: dict[Shared, int] = defaultdict(int)
    for shape in shapes:
        if shape.shared is not None and shape.has_question:
            num_together[shape.shared] += 1
        else:
            for clip in shape.clips:
                num_groups[clip] += 1
    for (clips, _), num_rows in num_together.items():
        for clip in clips:
            num_groups[clip] += math.ceil(num_rows / max_rows_per_group)
    return any(count > 1 for count in num_groups.values())


def count_rows(num_rows: int, mix: Sequence[FileShare]) -> int:
    """Returns how many rows an epoch has.

    Args:
        num_rows: All rows.
        mix: How often those of each file come; empty where each row comes once.
    """
    return sum(share.num_per_epoch for share in mix) if mix else num_rows


def rows_of_epoch(num_rows: int, mix: Sequence[FileShare], *, seed: int | None, epoch: int) -> list[int]:
    """Returns the rows of an epoch by their numbers, in the order of their files.

    A file with weight 2.3 gives each of its rows twice, and of each epoch three of ten a third time: they are taken one after
    the other from an order that the seed decides, so that over epochs no row comes more than once more often than another.

    Args:
        num_rows: All rows.
        mix: How often those of each file come; empty where each row comes once.
        seed: Decides which rows come once more.
        epoch: Which pass over the rows it is.
    """
    if not mix:
        return list(range(num_rows))
    rows: list[int] = []
    first = 0
    for number, share in enumerate(mix):
        own = list(range(first, first + share.num_rows))
        first += share.num_rows
        if not own:
            continue
        num_whole, num_more = divmod(share.num_per_epoch, len(own))
        rows += own * num_whole
        random.Random(f"file {seed} {number}").shuffle(own)
        rows += sorted(own[(epoch * num_more + index) % len(own)] for index in range(num_more))
    return rows


def make_steps(
    shapes: Sequence[RowShape],
    *,
    global_batch_rows: int,
    max_rows_per_group: int,
    seed: int | None,
    epoch: int = 0,
    mix: Sequence[FileShare] = (),
) -> Iterator[list[Group]]:
    """Makes the steps of an epoch, in which each row comes exactly once, or as often as the weight of its file says.

    The rows of a clip are cut at random into chunks, the chunks are shuffled, and every `global_batch_rows` rows in that
    order are a step; a chunk at the edge of two steps is cut there. The last step may hold fewer rows.

    Args:
        shapes: All rows.
        global_batch_rows: Rows of a step.
        max_rows_per_group: Most rows of a group; 1 shuffles single rows.
        seed: Seed of the order, drawn anew in each epoch; None keeps the order of the rows as far as groups allow.
        epoch: Which pass over the rows it is.
        mix: How often rows come; see `rows_of_epoch`.

    Yields:
        The groups of each step.
    """
    order = rows_of_epoch(len(shapes), mix, seed=seed, epoch=epoch)
    chance = random.Random(f"rows {seed} {epoch}")
    if seed is not None:
        chance.shuffle(order)
    chunks = _chunks(order, shapes, max_rows_per_group)
    if seed is not None and max_rows_per_group > 1:
        chance.shuffle(chunks)
    step: list[Group] = []
    num_free = global_batch_rows
    for chunk in chunks:
        rest = chunk
        while rest:
            step.append(tuple(rest[:num_free]))
            num_free -= len(step[-1])
            rest = rest[len(step[-1]) :]
            if num_free == 0:
                yield step
                step, num_free = [], global_batch_rows
    if step:
        yield step


def _chunks(order: Sequence[int], shapes: Sequence[RowShape], max_rows: int) -> list[list[int]]:
    """Collects rows that share their prefix until a chunk is full; the last may be smaller. Rows without a question are alone."""
    chunks: list[list[int]] = []
    open_chunk: dict[Shared, list[int]] = {}
    for row in order:
        shared = shapes[row].shared if shapes[row].has_question else None
        chunk = None if shared is None else open_chunk.get(shared)
        if chunk is None or len(chunk) == max_rows:
            chunk = []
            chunks.append(chunk)
            if shared is not None:
                open_chunk[shared] = chunk
        chunk.append(row)
    return chunks


def clips_per_step(
    shapes: Sequence[RowShape],
    *,
    global_batch_rows: int,
    max_rows_per_group: int,
    seed: int,
    mix: Sequence[FileShare] = (),
) -> float:
    """Returns how many clips a step sees on average: the diversity that grouping costs a batch."""
    limits = {"global_batch_rows": global_batch_rows, "max_rows_per_group": max_rows_per_group}
    steps = list(make_steps(shapes, **limits, seed=seed, mix=mix))
    counts = []
    for step in steps:
        rows = [row for group in step for row in group]
        clips = {clip for row in rows for clip in shapes[row].clips}
        counts.append(len(clips) + sum(not shapes[row].clips for row in rows))
    return sum(counts) / len(counts)
