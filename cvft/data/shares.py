"""Shares of clips, so that many processes, on one machine or on many, work on one data set without speaking to each other.

rows + `I/N` -> the rows of every N-th clip, from clip I on; rows that show several clips count by all of them together

Whoever knows the rows, I and N knows the share: nothing is dealt out, and a share that is started again is the same one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from cvft.data.rows import Row
from cvft.errors import ValueProblem, quote


class Share(NamedTuple):
    """One of several shares.

    Args:
        number: Which, from 0.
        total: How many there are.
    """

    number: int
    total: int

    def __str__(self) -> str:
        return f"{self.number}/{self.total}"


def parse_share(text: str) -> Share:
    """Reads `I/N`.

    Raises:
        ValueProblem: when it is no share.
    """
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text, re.ASCII)
    if found is None or int(found[1]) >= int(found[2]):
        raise ValueProblem(quote(text), "I/N such as `0/4`, I from 0 to N-1")
    return Share(int(found[1]), int(found[2]))


def take_share(rows: Sequence[Row], share: Share | None) -> list[Row]:
    """Returns the rows of a share: of the clips, every so many-th with all its rows. A row without a clip counts as one.

    Args:
        rows: All rows.
        share: The share; None for all rows.
    """
    if share is None:
        return list(rows)
    clips = [row.videos or index for index, row in enumerate(rows)]
    mine = set(list(dict.fromkeys(clips))[share.number :: share.total])
    return [row for row, clip in zip(rows, clips, strict=True) if clip in mine]
