"""How answers to val rows changed while a run trained: answers by row and step -> what the page shows of each row."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from cvft.training_log import ValAnswer

MAX_ROWS = 40
"""Most rows whose answers the page shows; the run's `train/answers.jsonl` has all."""

MAX_CHANGES = 8
"""Most answers of a row: its first and its newest ones."""


def follow_answers(answers: Sequence[ValAnswer]) -> dict[str, Any] | None:
    """Follows the answers to each row over the steps: equal ones in a row are one.

    Args:
        answers: Row by row, in order of steps.

    Returns:
        `rows`: of each its `line`, `query`, `expected` and `said`, and of what was said the `steps`, `text` and `right`, and
        `num_left_out`, those between the first and the newest ones; `num_more`: rows that are left out. None without answers.
    """
    if not answers:
        return None
    rows = []
    for line, group in itertools.groupby(answers, key=lambda answer: answer.line):
        of_row = list(group)
        said = []
        for text, same in itertools.groupby(of_row, key=lambda answer: answer.prediction):
            steps = [answer.step for answer in same]
            right = next(answer.is_exact_match for answer in of_row if answer.step == steps[0])
            name = f"step {steps[0]}" if len(steps) == 1 else f"steps {steps[0]} to {steps[-1]}"
            said.append({"steps": name, "text": text, "right": right})
        shown = said if len(said) <= MAX_CHANGES else [said[0], *said[1 - MAX_CHANGES :]]
        rows.append(
            {
                "line": line,
                "query": of_row[0].query,
                "expected": of_row[0].expected,
                "said": shown,
                "num_left_out": len(said) - len(shown),
            }
        )
    return {"rows": rows[:MAX_ROWS], "num_more": max(0, len(rows) - MAX_ROWS)}
