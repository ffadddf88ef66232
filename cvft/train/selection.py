"""Which checkpoint is the best one, and when a training ends early: what its log says, and nothing else. No torch.

A decision is a function of the measurements so far, which every checkpoint keeps: a training that was stopped and continued
decides as one that was left alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

LESS_IS_BETTER = frozenset({"eval_loss"})
"""Of `train.select_by`, what is better when it is smaller; all others are shares and scores."""


@dataclass(frozen=True)
class Measurement:
    """What was measured at a step.

    Args:
        step: The step.
        value: The number that checkpoints are chosen by.
    """

    step: int
    value: float


def find_best(measured: Sequence[Measurement], *, by: str) -> Measurement | None:
    """Returns the best of some measurements, the earliest of equals; None where none is finite.

    Args:
        measured: Measurements, oldest first.
        by: What was measured: see `cvft.recipe.schema.SelectBy`.
    """
    sign = 1 if by in LESS_IS_BETTER else -1
    finite = [each for each in measured if math.isfinite(each.value)]
    return min(finite, key=lambda each: sign * each.value, default=None)


def read_measurements(log: Sequence[Mapping[str, Any]], *, by: str) -> list[Measurement]:
    """Returns what a training's log says of one metric, oldest first.

    Args:
        log: Logged numbers with their `step`, as transformers keeps them.
        by: The metric.
    """
    return [Measurement(int(entry["step"]), float(entry[by])) for entry in log if by in entry]


def ends_early(measured: Sequence[Measurement], *, by: str, patience: int | None) -> bool:
    """Tells whether a training ends after the last of some measurements.

    Args:
        measured: All measurements so far, oldest first.
        by: What was measured.
        patience: Measurements in a row that may be no better than the best before them; None for as many as there are steps.
    """
    best = find_best(measured, by=by)
    if patience is None or best is None:
        return False
    return sum(each.step > best.step for each in measured) >= patience


def describe_end(measured: Sequence[Measurement], *, by: str, num_steps: int) -> str:
    """Says in a sentence why a training ended before its last step.

    Args:
        measured: All its measurements.
        by: What was measured.
        num_steps: Steps that were planned.
    """
    best, last = find_best(measured, by=by), measured[-1].step
    assert best is not None, "`ends_early`"
    since = sum(each.step > best.step for each in measured)
    return (
        f"the training ended after step {last} of {num_steps}: {by} was best at step {best.step} ({best.value:.4g}) and not "
        f"better in the {since} measurements since (train.early_stop_evals)"
    )
