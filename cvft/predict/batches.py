"""Which rows are answered together, and by which rank: the batches are the same for any number of ranks.

rows -> batches, the rows of a clip side by side -> shares of whole batches, one per rank
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from cvft.data.rows import Row
from cvft.data.video.spec import ClipRef
from cvft.errors import CvftError
from cvft.families.answering import Answer

SLACK_SHARE = 0.1
"""How far from its even place a cut may lie, as a part of an even share, for a clip to stay whole. A clip that lies in two shares
costs a second decoding and nothing more, for each batch computes its prefixes in any case; a rank that waits costs time."""


@dataclass(frozen=True)
class AnsweredBatch:
    """What came of some rows, by their numbers from 0.

    Args:
        answers: The answers.
        bad: Why the others could not be answered.
    """

    answers: Mapping[int, Answer]
    bad: Mapping[int, CvftError]


def make_batches(rows: Sequence[Row], batch_rows: int) -> list[list[int]]:
    """Puts rows of one clip side by side, where its prefix is computed once for all of them in a batch.

    Args:
        rows: The rows.
        batch_rows: Rows of a batch.

    Returns:
        The numbers of the rows of each batch, from 0: clips in the order of their first row, rows of a clip in theirs.
    """
    first_with: dict[tuple[ClipRef, ...] | int, int] = {}
    clips = clips_of(rows)
    order = sorted(range(len(rows)), key=lambda number: first_with.setdefault(clips[number], number))
    return [order[start : start + batch_rows] for start in range(0, len(rows), batch_rows)]


def clips_of(rows: Sequence[Row]) -> list[tuple[ClipRef, ...] | int]:
    """Returns what tells the clips of rows apart; a row without one has its own number."""
    return [row.videos or number for number, row in enumerate(rows)]


def share_out(
    rows: Sequence[Row], *, batch_rows: int, num_shares: int, done: Collection[int] = ()
) -> list[list[list[int]]]:
    """Shares out whole batches: what is computed is what one process would, so the answers are the same bits.

    A share is a run of batches, of about as many rows as the others. It begins with a new clip where one begins near enough.

    Args:
        rows: The rows.
        batch_rows: Rows of a batch.
        num_shares: Most shares.
        done: Numbers of rows that need no answer.

    Returns:
        Batches of each share, with the numbers of rows that need an answer; none is empty.
    """
    needed = set(range(len(rows))) - set(done)
    left = [[number for number in batch if number in needed] for batch in make_batches(rows, batch_rows)]
    batches = [batch for batch in left if batch]
    clips = clips_of(rows)
    rows_before = [0]
    for batch in batches:
        rows_before.append(rows_before[-1] + len(batch))
    even = rows_before[-1] / max(1, num_shares)
    cuts = [0]
    for number in range(1, min(num_shares, len(batches))):
        wanted = number * even
        # at least one batch for this share and for each that follows
        places = range(cuts[-1] + 1, len(batches) - (min(num_shares, len(batches)) - number) + 1)
        whole = [
            place
            for place in places
            if clips[batches[place - 1][-1]] != clips[batches[place][0]]
            and abs(rows_before[place] - wanted) <= SLACK_SHARE * even
        ]
        cuts.append(min(whole or places, key=lambda place: abs(rows_before[place] - wanted)))
    ends = [*cuts[1:], len(batches)]
    return [batches[start:end] for start, end in zip(cuts, ends, strict=True) if start < end]
