"""Splits rows into train and validation rows so that no file of clips is on both sides.

    list[Row]  ->  (train rows, val rows), each in the order given

Refuses a split that would leave one side empty.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from cvft.data.rows import Row
from cvft.data.video.spec import files_of, hash_files, stat_files
from cvft.errors import DataError, Problem, quote


def split_by_clip(rows: Sequence[Row], *, val_fraction: float, seed: int) -> tuple[list[Row], list[Row]]:
    """Splits rows by clip, so that a model is never judged on a clip it was trained on.

    Rows about one file stay together, whatever stretch of it they show, even when two paths hold the same bytes. A text-only row
    stands for itself. Whole files are moved in a seeded order as long as each brings the number of val rows nearer to the wanted
    one.
    The outcome depends on the order of the rows and on the seed, not on folder names.

    Args:
        rows: The rows to split; their clips must exist.
        val_fraction: Wanted share of *rows* on the val side, between 0 and 1, both excluded.
        seed: Any whole number.

    Returns:
        Train rows and val rows, both non-empty, in the order given.

    Raises:
        DataError: The fraction is out of range, or there are fewer than two clips to divide.
    """
    if not 0 < val_fraction < 1:
        problem = Problem("val_fraction", quote(val_fraction), "a number between 0 and 1, both excluded")
        raise DataError("the split of the data", [problem])
    units = _find_units(rows)
    if len(units) < 2:
        got = f"{len(rows)} rows of 1 clip" if rows else "no rows"
        hint = "name a validation file, or add rows of another clip"
        problem = Problem("split by clip", got, "at least 2 clips, one for each side", hint)
        raise DataError("the split of the data", [problem])

    random.Random(seed).shuffle(units)
    wanted = val_fraction * len(rows)
    val: set[int] = set()
    num_left = len(units)
    for unit in units:
        nearer = abs(len(val) + len(unit) - wanted) < abs(len(val) - wanted)
        if nearer and num_left > 1:
            val.update(unit)
            num_left -= 1
    if not val:  # every clip has more rows than asked for: the smallest one comes nearest
        val.update(sorted(units, key=len)[0])
    return (
        [row for index, row in enumerate(rows) if index not in val],
        [row for index, row in enumerate(rows) if index in val],
    )


def _find_units(rows: Sequence[Row]) -> list[list[int]]:
    """Returns the row indices that must stay together, in the order in which their first rows stand."""
    same_bytes = _name_equal_files({files_of(row.video) for row in rows if row.video is not None})
    units: dict[object, list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        units[index if row.video is None else same_bytes[files_of(row.video)]].append(index)
    return list(units.values())


def _name_equal_files(every: set[tuple[Path, ...]]) -> dict[tuple[Path, ...], str]:
    """Maps the files of each clip to a name that those of two clips share when their bytes are equal.

    Files of different size differ, so only files that share their size with another one are read.
    """
    by_size: dict[int, list[tuple[Path, ...]]] = defaultdict(list)
    for files in every:
        by_size[stat_files(files)[0]].append(files)
    names: dict[tuple[Path, ...], str] = {}
    for same_size in by_size.values():
        for files in same_size:
            names[files] = hash_files(files) if len(same_size) > 1 else str(files[0])
    return names
