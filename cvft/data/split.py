"""Splits rows into train and validation rows so that no file of clips is on both sides.

    list[Row]  ->  (train rows, val rows), each in the order given

Which rows are held out depends on what rows and clips hold and on the seed: not on their order, and not on names of files.
Refuses a split that would leave one side empty.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from cvft.data.connected import connect
from cvft.data.rows import Row, category_of
from cvft.data.video.spec import ClipRef, files_of, hash_files
from cvft.errors import DataError, Problem, quote

WINDOW = 16
"""Units, in their seeded order, of which the one is taken that fits the categories best: with more, large sets take long."""

Unit = list[int]
"""Numbers of rows that stay together."""


def split_by_clip(
    rows: Sequence[Row],
    *,
    val_fraction: float,
    seed: int,
    max_val_rows: int | None = None,
    contents: Mapping[ClipRef, str] | None = None,
    groups: Mapping[str, str] | None = None,
) -> tuple[list[Row], list[Row]]:
    """Splits rows by clip, so that a model is never judged on a clip it was trained on.

    Rows about one file stay together, whatever stretch of it they show, even when two paths hold the same bytes; so do rows about
    files of one group, all rows about files that any row shows together, and equal rows of text only. In an order that the seed
    makes of what they hold, whole files are held out as long as each brings the number of val rows nearer to the wanted one.
    Where rows have categories, the next is the one of the `WINDOW` first after which the shares of the categories among the val
    rows are nearest to those among all rows.

    Args:
        rows: The rows to split.
        val_fraction: Wanted share of *rows* on the val side, between 0 and 1, both excluded.
        seed: Any whole number.
        max_val_rows: Most rows on the val side; None for no bound.
        contents: `hash_files` of each clip; without it, the files are read.
        groups: Content of a file -> name of a group of files that are alike; a file that is left out is alone.

    Returns:
        Train rows and val rows, both non-empty, in the order given.

    Raises:
        DataError: The fraction is out of range, there are fewer than two clips to divide, or none is as small as the bound.
    """
    if not 0 < val_fraction < 1:
        problem = Problem("val_fraction", quote(val_fraction), "a number between 0 and 1, both excluded")
        raise DataError("the split of the data", [problem])
    units = _find_units(rows, contents, groups or {}, seed=seed)
    if len(units) < 2:
        got = f"{len(rows)} rows of 1 clip" if rows else "no rows"
        hint = "name a validation file, or add rows of another clip"
        problem = Problem("split by clip", got, "at least 2 clips, one for each side", hint)
        raise DataError("the split of the data", [problem])

    most = len(rows) if max_val_rows is None else max_val_rows
    wanted = min(val_fraction * len(rows), most)
    balance = _Balance(rows)
    val: set[int] = set()
    left, num_train = list(units), len(units)
    while left and num_train > 1:
        window = [
            number for number, unit in enumerate(left[: balance.window]) if _is_nearer(unit, len(val), wanted, most)
        ]
        if window:
            taken = left.pop(min(window, key=lambda number: balance.distance(left[number])))
            balance.add(taken)
            val.update(taken)
            num_train -= 1
        else:  # nor will any of them bring it nearer later, when there is less to go
            del left[: balance.window]
    if not val:  # every clip has more rows than asked for: the smallest one comes nearest
        smallest = min(units, key=len)
        if len(smallest) > most:
            got, hint = f"{len(smallest)} rows of the clip with the fewest", "raise it, or name a validation file"
            raise DataError("the split of the data", [Problem("data.val_rows", quote(most), f"at least {got}", hint)])
        val.update(smallest)
    return (
        [row for index, row in enumerate(rows) if index not in val],
        [row for index, row in enumerate(rows) if index in val],
    )


def _is_nearer(unit: Unit, num_val: int, wanted: float, most: int) -> bool:
    """Tells whether the number of val rows comes nearer to the wanted one with a unit, and keeps to the bound."""
    return num_val + len(unit) <= most and abs(num_val + len(unit) - wanted) < abs(num_val - wanted)


class _Balance:
    """How far the categories of the val rows are from those of all rows."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._categories = [category_of(row) for row in rows]
        counts = Counter(self._categories)
        self._shares = {category: count / len(rows) for category, count in counts.items()}
        self._val = dict.fromkeys(counts, 0)
        self._num_val = 0
        self._units: dict[int, Counter[str | None]] = {}
        self.window = WINDOW if len(counts) > 1 else 1

    def add(self, unit: Unit) -> None:
        """Puts a unit on the val side."""
        self._num_val += len(unit)
        for category, count in self._count(unit).items():
            self._val[category] += count

    def distance(self, unit: Unit) -> float:
        """Returns the sum of what the shares of categories would differ by with a unit on the val side."""
        own = self._count(unit)
        total = self._num_val + len(unit)
        return sum([abs((self._val[each] + own.get(each, 0)) / total - share) for each, share in self._shares.items()])

    def _count(self, unit: Unit) -> Counter[str | None]:
        """Counts the categories of a unit, which is asked about as long as it is in the window."""
        first = unit[0]
        if first not in self._units:
            self._units[first] = Counter([self._categories[row] for row in unit])
        return self._units[first]


def _find_units(
    rows: Sequence[Row], contents: Mapping[ClipRef, str] | None, groups: Mapping[str, str], *, seed: int
) -> list[Unit]:
    """Returns the rows that must stay together, in an order that the seed makes of what they hold."""
    hashes: dict[tuple[Path, ...], str] = {}
    names: dict[ClipRef, str] = {}
    for clip in (clip for row in rows for clip in row.videos):
        if clip not in names:
            files = files_of(clip)
            if files not in hashes:
                hashes[files] = hash_files(files) if contents is None else contents[clip]
            names[clip] = groups.get(hashes[files], hashes[files])
    unit_of = connect([names[clip] for clip in row.videos] for row in rows)
    units: dict[str, Unit] = defaultdict(list)
    for index, row in enumerate(rows):
        if row.videos:
            name = unit_of[names[row.videos[0]]]
        else:
            name = json.dumps([row.query, row.response, row.history], ensure_ascii=False)
        units[name].append(index)
    order = {name: hashlib.sha256(f"{seed} {name}".encode(errors="surrogatepass")).digest() for name in units}
    return [units[name] for name in sorted(units, key=lambda name: order[name])]
