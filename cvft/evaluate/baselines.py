"""What is reached without a model: the most frequent training answer, for every question of a category."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from cvft.data.rows import Row, category_of
from cvft.evaluate.metrics import compute_metrics
from cvft.evaluate.metrics.rows import clips_of


def score_most_frequent(train_rows: Sequence[Row], val_rows: Sequence[Row]) -> dict[str, Any]:
    """Scores answering each val row with the most frequent training answer of its category.

    A category without training rows, or a row without a category, takes the most frequent answer of all. Of equally frequent ones
    the first in the training rows counts.

    Args:
        train_rows: Rows that were trained on, one at least.
        val_rows: Rows held out.

    Returns:
        What `compute_metrics` returns.
    """
    overall: Counter[str] = Counter()
    by_category: dict[str | None, Counter[str]] = {}
    for row in train_rows:
        overall[row.response] += 1
        by_category.setdefault(category_of(row), Counter())[row.response] += 1
    answers = {
        category: counts.most_common(1)[0][0] for category, counts in by_category.items() if category is not None
    }
    most_frequent = overall.most_common(1)[0][0]
    categories = [category_of(row) for row in val_rows]
    return compute_metrics(
        [answers.get(category or "", most_frequent) for category in categories],
        expected=[row.response for row in val_rows],
        categories=categories,
        queries=[row.query for row in val_rows],
        clips=clips_of(val_rows),
    )
