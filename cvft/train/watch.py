"""The watch on a training's numbers: what a step that is not finite means, and what the course of the val loss says. No torch.

loss and gradient norm of a step -> nothing, a step left out, or the error that ends the training on every rank
logged losses -> notes for the end of the training and for the report
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cvft.errors import Problem, RunError
from cvft.files import write_whole

SKIPPED_KEY = "skipped_steps"
"""In the log of a training: how many steps have been left out up to here."""

DEEPSPEED_OVERFLOW = -1.0
"""What DeepSpeed gives as the norm of a gradient that is not finite. Source: its ZeRO optimizers, `get_grad_norm_direct`."""

FAR_ABOVE = 2.0
LEAST_RISE = 0.1
"""A val loss that ends so many times as high as the lowest one before, and so much higher, is worth a note: losses near 0 double
without meaning anything."""

NUM_NAMED = 3


def is_sound(norm: float | None) -> bool:
    """Tells whether a gradient's norm is a number; DeepSpeed has none for some steps, and its own mark for one that is not."""
    return norm is None or (math.isfinite(norm) and norm != DEEPSPEED_OVERFLOW)


def diverged_error(
    *,
    step: int,
    num_steps: int,
    loss: float,
    norm: float | None,
    log: Sequence[Mapping[str, Any]],
    learning_rate: float,
    dtype: str,
    rows: Sequence[int],
    num_skipped: int,
    max_skipped: int,
) -> RunError:
    """Makes the error that ends a training whose numbers are no numbers any more.

    Args:
        step: The step, from 1.
        num_steps: Steps of the whole training.
        loss: Its loss on this rank.
        norm: Norm of its gradient, where there is one.
        log: What was logged before, oldest first.
        learning_rate: Of this step.
        dtype: Precision of the computation.
        rows: Train rows whose loss is not finite, from 1; empty when all are and the gradient is not.
        num_skipped: Steps that were left out before.
        max_skipped: How many may be.
    """
    got = f"a loss of {loss:g}" if not math.isfinite(loss) else _name_norm(norm)
    if rows and math.isfinite(loss):
        got = "a loss on another rank that is not finite"
    losses = [entry["loss"] for entry in log if "loss" in entry]
    before = f" after losses of {', '.join(f'{value:.3g}' for value in losses[-NUM_NAMED:])}" if losses else ""
    left_out = f", and {num_skipped} steps were left out before" if max_skipped else ""
    named = ", ".join(str(row) for row in rows[:NUM_NAMED]) + (" and more" if len(rows) > NUM_NAMED else "")
    causes = [
        f"a learning rate that is too high (optim.learning_rate, {learning_rate:.3g} in this step) or a short warm-up"
    ]
    if dtype != "fp32":
        causes.append(f"the rounding of {dtype} (model.dtype=fp32 has less)")
    causes.append(
        f"a bad row (the loss is not finite on data/train.jsonl, line {named})" if named else "a bad row of this step"
    )
    hint = (
        f"likely causes: {'; '.join(causes)}. Train again under another name (name=...); train.max_skipped_steps lets a "
        "training go on without single steps like this one"
    )
    where = f"step {step} of {num_steps}"
    return RunError("the training", [Problem(where, f"{got}{before}{left_out}", "finite numbers", hint)])


def diverged_val_error(*, step: int, loss: float, learning_rate: float) -> RunError:
    """Makes the error for a val loss that is not finite: the weights, or a row, are not."""
    hint = f"a lower optim.learning_rate ({learning_rate:.3g} in this step) under another name (name=...), or another val row"
    return RunError("the training", [Problem(f"val loss at step {step}", f"{loss:g}", "a finite number", hint)])


def _name_norm(norm: float | None) -> str:
    is_marked = norm is None or norm == DEEPSPEED_OVERFLOW
    return "a gradient that is not finite" if is_marked else f"a gradient norm of {norm:g}"


def describe_course(log: Sequence[Mapping[str, Any]]) -> list[str]:
    """Says what in a training's log speaks against its adapter, in sentences; nothing when nothing does.

    Args:
        log: Logged numbers with their `step`, oldest first: `loss`, `eval_loss`, `skipped_steps`.
    """
    notes = []
    skipped = {int(entry["step"]): int(entry[SKIPPED_KEY]) for entry in log if SKIPPED_KEY in entry}
    if skipped:
        steps = sorted(skipped)
        some = ", ".join(map(str, steps[:NUM_NAMED])) + (" and others" if len(steps) > NUM_NAMED else "")
        one = len(steps) == 1
        notes.append(
            f"{len(steps)} step{'' if one else 's'} ({some}) left the adapter as it was: loss or gradient "
            f"{'was' if one else 'were'} not finite"
        )
    measured = [(int(entry["step"]), float(entry["eval_loss"])) for entry in log if "eval_loss" in entry]
    first = [(int(entry["step"]), float(entry["loss"])) for entry in log if "loss" in entry][:1]
    if measured:
        (last_step, last), earlier = measured[-1], [*measured[:-1], *first]
        step, lowest = min(earlier, key=lambda each: each[1], default=(last_step, last))
        if last > FAR_ABOVE * lowest and last - lowest > LEAST_RISE:
            what = "val loss" if (step, lowest) in measured else "loss"
            notes.append(
                f"val loss ended at {last:.3g}, far above the {what} of {lowest:.3g} at step {step}: the training diverged, or "
                "learned its rows by heart. A lower optim.learning_rate or fewer steps help"
            )
    return notes


def write_notes(checkpoint: Path, notes_file: Path) -> list[str]:
    """Keeps what is to be said of a training beside it.

    Args:
        checkpoint: Its last checkpoint.
        notes_file: Where the report looks for it.

    Returns:
        The notes.
    """
    state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    notes = describe_course(state["log_history"])
    write_whole(notes_file, json.dumps(notes, indent=2) + "\n")
    return notes
