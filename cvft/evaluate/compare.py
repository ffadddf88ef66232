"""Two models on the same rows: what differs, and whether it could be chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cvft.data.clip_columns import SHOWN_COLUMNS, files_in
from cvft.data.connected import name_connected
from cvft.data.row_columns import category_in
from cvft.errors import DataError, Problem, quote
from cvft.evaluate.uncertainty import Difference, compare

ROW_COLUMNS = ("query", "response", "history", "system", *SHOWN_COLUMNS)
"""What makes two rows the same."""


@dataclass(frozen=True)
class Comparison:
    """The exact match of one model beside another's.

    Args:
        overall: Over all rows; None with too few clips.
        categories: Per category, where rows have one.
        num_gained: Rows that only the second model answers right.
        num_lost: Rows that only the first model answers right.
    """

    overall: Difference | None
    categories: Mapping[str, Difference | None] = field(default_factory=dict)
    num_gained: int = 0
    num_lost: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as JSON values."""

        def value(difference: Difference | None) -> dict[str, Any] | None:
            return None if difference is None else difference.to_dict()

        return {
            "overall": value(self.overall),
            "categories": {name: value(difference) for name, difference in self.categories.items()},
            "num_gained": self.num_gained,
            "num_lost": self.num_lost,
        }


def compare_predictions(
    first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]], *, where: str = "the comparison"
) -> Comparison:
    """Compares two sets of predictions, row by row.

    Args:
        first: Lines as an evaluation keeps them.
        second: Lines of the same rows, by another model.
        where: What to say in an error.

    Returns:
        The comparison, second less first.

    Raises:
        DataError: when they are not of the same rows.
    """
    if len(first) != len(second):
        problem = Problem("rows", f"{len(first)} and {len(second)}", "predictions of the same rows", _HINT)
        raise DataError(where, [problem])
    for index, (one, other) in enumerate(zip(first, second, strict=True)):
        changed = [name for name in ROW_COLUMNS if one.get(name) != other.get(name)]
        if changed:
            got = f"{quote(one.get(changed[0]))} and {quote(other.get(changed[0]))}"
            raise DataError(
                where, [Problem(f"row {index + 1} `{changed[0]}`", got, "predictions of the same rows", _HINT)]
            )
    scores = [[float(line["is_exact_match"]) for line in lines] for lines in (first, second)]
    clips = clips_of(first)

    def difference(indices: Sequence[int]) -> Difference | None:
        picked = [[values[index] for index in indices] for values in scores]
        return compare(picked[0], picked[1], clips=[clips[index] for index in indices])

    groups: dict[str, list[int]] = {}
    for index, line in enumerate(first):
        if category := category_in(line):
            groups.setdefault(category, []).append(index)
    return Comparison(
        difference(range(len(first))),
        {name: difference(groups[name]) for name in sorted(groups)},
        num_gained=sum(after > before for before, after in zip(*scores, strict=True)),
        num_lost=sum(after < before for before, after in zip(*scores, strict=True)),
    )


def clips_of(lines: Sequence[Mapping[str, Any]]) -> list[str | int]:
    """Returns what tells apart rows that are right or wrong together, as `metrics.rows.clips_of` does before they are written."""
    return name_connected([files_in(line) for line in lines])


_HINT = "evaluate both on the same file, with the same `eval.num_rows`"
