"""What a training writes while it runs, read by whoever shows it or sends it on: its log, its steps, its answers to val rows.

A line of the log is one JSON object: the numbers of one logged step beside `global_step/max_steps` ("5/40"), or, as the
last line, a summary without a step. A run that was killed may have left half a last line, and one that was resumed logs
some steps again: the half line is passed over, and the later numbers of a step stand.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cvft.errors import Problem, RunError, quote
from cvft.jsonl import split_lines

STEP_KEY = "global_step/max_steps"
"""Where a log line says its step. Source: ms-swift 4.6.0, the lines of any `logging.jsonl`."""

Log = dict[int, dict[str, float]]
"""Step -> name -> number, in order of steps."""


def read_log(path: Path) -> Log:
    """Reads the numbers of each logged step.

    Args:
        path: The `logging.jsonl` of a training.

    Returns:
        Step -> name -> number, in order of steps; the lines of one step are joined.

    Raises:
        RunError: the file is missing, or a line before the last is not a JSON object.
    """
    subject = f"log {path}"
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise RunError(subject, [Problem(str(path), "no such file", "the log of a training")]) from None
    steps: dict[int, dict[str, float]] = {}
    lines = list(split_lines(raw))
    for number, line in lines:
        try:
            record = json.loads(line)  # not strict: a loss may be NaN
        except (ValueError, RecursionError):
            if number == lines[-1][0]:
                break
            record = None
        if not isinstance(record, dict):
            text = line.decode("utf-8", errors="replace")
            raise RunError(subject, [Problem(f"{path}:{number}", quote(text), "a JSON object")])
        step, numbers = read_record(record)
        if step is not None:
            steps.setdefault(step, {}).update(numbers)
    return dict(sorted(steps.items()))


def read_record(record: Mapping[str, Any]) -> tuple[int | None, dict[str, float]]:
    """Returns the step and the numbers of one line of a log; no step for a line that is of none.

    Args:
        record: The line, parsed.
    """
    numbers = {key: _as_float(value) for key, value in record.items() if _is_number(value)}
    return _step_of(record), numbers


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # a whole number of hundreds of digits
        return math.inf if value > 0 else -math.inf


MAX_STEP_DIGITS = 12


def _step_of(record: Mapping[str, Any]) -> int | None:
    text = str(record.get(STEP_KEY, "")).partition("/")[0]
    if text.isdecimal() and len(text) <= MAX_STEP_DIGITS:
        return int(text)
    step = record.get("step")  # what transformers itself writes in trainer_state.json
    return step if isinstance(step, int) else None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass(frozen=True)
class StepTime:
    """What one step took.

    Args:
        step: The step, from 1.
        step_s: Seconds from asking for its rows to its end; neither a checkpoint nor a val pass is in it.
        waited_s: Of these, seconds that it waited for its rows.
        memory_bytes: What the first rank's process took: of its GPU the most so far, or else of the host's memory.
    """

    step: int
    step_s: float
    waited_s: float
    memory_bytes: int


def read_step_times(*paths: Path) -> list[StepTime]:
    """Reads what each step took, in order of steps; of one that was done again, the later time stands.

    Args:
        paths: The worker's reports, of earlier starts first. What is no report of a step is passed over.
    """
    found: dict[int, StepTime] = {}
    for path in paths:
        for _, line in split_lines(path.read_bytes() if path.is_file() else b""):
            try:
                report = json.loads(line)
                times = float(report["step_s"]), float(report["step_waited_s"]), int(report["memory_bytes"])
                found[int(report["step"])] = StepTime(int(report["step"]), *times)
            except (ValueError, KeyError, TypeError, RecursionError):
                continue
    return [found[step] for step in sorted(found)]


@dataclass(frozen=True)
class ValAnswer:
    """What was said to a val row at a step.

    Args:
        step: The step.
        line: The row's line in the run's val rows.
        query: The question.
        expected: The right answer.
        prediction: What was said.
        is_exact_match: Whether it is the right answer.
    """

    step: int
    line: int
    query: str
    expected: str
    prediction: str
    is_exact_match: bool


def read_val_answers(path: Path) -> list[ValAnswer]:
    """Reads what was said to val rows while a run trained, row by row in order of steps.

    Of a step that was done again, the later answers stand. A last line that is still being written is passed over.

    Args:
        path: `answers.jsonl` of a training; nothing need lie there.
    """
    found: dict[tuple[int, int], ValAnswer] = {}
    for _, line in split_lines(path.read_bytes() if path.is_file() else b""):
        try:
            values = json.loads(line)
            answer = ValAnswer(**{key: values[key] for key in ValAnswer.__dataclass_fields__})
            found[int(answer.line), int(answer.step)] = answer
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
    return [found[key] for key in sorted(found)]
