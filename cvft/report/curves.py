"""A trainer's `logging.jsonl` -> points by step -> `loss.png` and `learning_rate.png`.

A line of the log is one JSON object: the numbers of one logged step beside `global_step/max_steps` ("5/40"), or, as the
last line, a summary without a step. A run that was killed may have left half a last line, and one that was resumed logs
some steps again: the half line is passed over, and the later numbers of a step stand.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cvft.errors import Problem, RunError, quote
from cvft.files import write_whole
from cvft.jsonl import split_lines
from cvft.report.charts import Chart

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STEP_KEY = "global_step/max_steps"
"""Where a log line says its step. Source: ms-swift 4.6.0, the lines of any `logging.jsonl`."""

Log = dict[int, dict[str, float]]
"""Step -> name -> number, in order of steps."""

_INK, _MUTED, _TRAIN, _VAL = "#1f2430", "#6b7280", "#2563eb", "#d97706"


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
        step = _step_of(record)
        if step is not None:
            numbers = {key: _as_float(value) for key, value in record.items() if _is_number(value)}
            steps.setdefault(step, {}).update(numbers)
    return dict(sorted(steps.items()))


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # a whole number of hundreds of digits
        return math.inf if value > 0 else -math.inf


def make_charts(steps: Log) -> list[Chart]:
    """Returns the curves that the page shows; none for a curve without a point.

    Args:
        steps: What `read_log` returned.
    """
    charts = [
        Chart("Loss", {"train": _points(steps, "loss"), "val": _points(steps, "eval_loss")}),
        Chart("Answer tokens right", {"train": _points(steps, "token_acc"), "val": _points(steps, "eval_token_acc")}),
        Chart("Learning rate", {"": _points(steps, "learning_rate")}),
        Chart("Gradient norm", {"": _points(steps, "grad_norm")}),
        Chart("Seconds per step, mean so far", {"": _points(steps, "train_speed(s/it)")}),
        Chart("GPU memory in GiB", {"": _points(steps, "memory(GiB)")}),
    ]
    return [chart for chart in charts if any(is_finite(points) for points in chart.series.values())]


def is_finite(points: Sequence[tuple[int, float]]) -> bool:
    """Says whether a line has a point that can be drawn."""
    return any(math.isfinite(value) for _, value in points)


def plot_curves(steps: Log, *, folder: Path) -> list[Path]:
    """Draws the loss and the learning rate of a training as PNG files.

    Args:
        steps: What `read_log` returned.
        folder: Where the pictures go.

    Returns:
        The pictures written; none for a curve without a point.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pictures = []
    losses = {"train": _points(steps, "loss"), "val": _points(steps, "eval_loss")}
    if any(losses.values()):
        pictures.append(_draw(folder / "loss.png", title="Loss", lines=losses))
    rates = _points(steps, "learning_rate")
    if rates:
        pictures.append(_draw(folder / "learning_rate.png", title="Learning rate", lines={"": rates}))
    return pictures


MAX_STEP_DIGITS = 12


def _step_of(record: Mapping[str, Any]) -> int | None:
    text = str(record.get(STEP_KEY, "")).partition("/")[0]
    if text.isdecimal() and len(text) <= MAX_STEP_DIGITS:
        return int(text)
    step = record.get("step")  # what transformers itself writes in trainer_state.json
    return step if isinstance(step, int) else None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _points(steps: Mapping[int, Mapping[str, float]], key: str) -> list[tuple[int, float]]:
    return [(step, numbers[key]) for step, numbers in steps.items() if key in numbers]


def _draw(path: Path, *, title: str, lines: Mapping[str, Sequence[tuple[int, float]]]) -> Path:
    # Not pyplot: it keeps figures and a backend in global state, and a picture needs neither.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6), dpi=150, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    shown = {name: points for name, points in lines.items() if points}
    for (name, points), color in zip(shown.items(), (_TRAIN, _VAL), strict=False):
        _draw_line(axes, points, name=name, color=_VAL if name == "val" else color)
    _style(axes, title=title)
    if len(shown) > 1:
        axes.legend(frameon=False, labelcolor=_INK)
    with io.BytesIO() as picture:
        canvas.print_figure(picture, format="png")
        write_whole(path, picture.getvalue())
    return path


def _draw_line(axes: Axes, points: Sequence[tuple[int, float]], *, name: str, color: str) -> None:
    # Few points are marked, or a single one would be invisible.
    marker = "o" if len(points) <= 30 else None
    axes.plot(*zip(*points, strict=True), color=color, linewidth=1.8, marker=marker, markersize=3.5, label=name)


def _style(axes: Axes, *, title: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=_INK)
    axes.set_xlabel("step", fontsize=9, color=_MUTED)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", color="#e5e7eb", linewidth=0.8)
    axes.tick_params(colors=_MUTED, labelsize=8, length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color("#d1d5db")
