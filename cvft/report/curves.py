"""What a training has logged -> the curves of its page, and `loss.png` and `learning_rate.png`."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cvft.files import write_whole
from cvft.report.charts import Chart
from cvft.training_log import Log, StepTime

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_POINTS = 300
"""Most points of a curve that has one for each step."""

_INK, _MUTED, _TRAIN, _VAL = "#1f2430", "#6b7280", "#2563eb", "#d97706"


@dataclass(frozen=True)
class Pace:
    """What the steps of a training took.

    Args:
        times: Of each step.
        num_rows: Train rows.
        global_batch_rows: Rows of a step; the last step of an epoch may hold fewer.
        device: `cpu` or `cuda`.
    """

    times: Sequence[StepTime]
    num_rows: int
    global_batch_rows: int
    device: str

    def rows_of(self, step: int) -> int:
        """Returns how many rows a step holds."""
        steps_per_epoch = math.ceil(self.num_rows / self.global_batch_rows)
        is_last = (step - 1) % steps_per_epoch == steps_per_epoch - 1
        return self.num_rows - self.global_batch_rows * (steps_per_epoch - 1) if is_last else self.global_batch_rows


def make_charts(steps: Log, *, pace: Pace | None = None, select_by: str = "eval_loss") -> list[Chart]:
    """Returns the curves that the page shows; none for a curve without a point.

    Args:
        steps: What `read_log` returned.
        pace: What the steps took, where that is known.
        select_by: What makes a checkpoint the best one: it is shown among the answers to val rows.
    """
    answered = {"exact match": "eval_exact_match", "token F1": "eval_token_f1"}
    chosen = select_by.removeprefix("eval_").replace("_", " ")
    charts = [
        Chart("Loss", {"train": _points(steps, "loss"), "val": _points(steps, "eval_loss")}),
        Chart("Answer tokens right", {"train": _points(steps, "token_acc"), "val": _points(steps, "eval_token_acc")}),
        Chart("Answers to val rows", {name: _points(steps, key) for name, key in answered.items()}),
        Chart("Learning rate", {"": _points(steps, "learning_rate")}),
        Chart("Gradient norm", {"": _points(steps, "grad_norm")}),
    ]
    if select_by not in ("eval_loss", "eval_token_acc", *answered.values()):
        charts.insert(3, Chart(f"Answers to val rows: {chosen}", {"": _points(steps, select_by)}))
    if pace is not None and pace.times:
        charts += _pace_charts(pace)
    else:
        charts += [
            Chart("Seconds per step, mean so far", {"": _points(steps, "train_speed(s/it)")}),
            Chart("GPU memory in GiB", {"": _points(steps, "memory(GiB)")}),
        ]
    return [chart for chart in charts if any(is_finite(points) for points in chart.series.values())]


def _pace_charts(pace: Pace) -> list[Chart]:
    """Draws what the steps took; of many steps, some at a time as one point at the last of them."""
    size = math.ceil(len(pace.times) / MAX_POINTS)
    parts = [pace.times[start : start + size] for start in range(0, len(pace.times), size)]
    seconds = [(part[-1].step, sum(each.step_s for each in part)) for part in parts]
    counts = [len(part) for part in parts]
    rows = [sum(pace.rows_of(each.step) for each in part) for part in parts]
    waited = [sum(each.waited_s for each in part) for part in parts]
    memory = [(part[-1].step, max(each.memory_bytes for each in part) / 2**30) for part in parts]
    of_steps = f", {size} steps a point" if size > 1 else ""
    held = (
        "GPU memory of the first rank in GiB, the most so far"
        if pace.device == "cuda"
        else ("Memory of the first process in GiB")
    )
    return [
        Chart(
            f"Rows per second{of_steps}",
            {"": [(step, num / taken) for (step, taken), num in zip(seconds, rows, strict=True) if taken]},
        ),
        Chart(
            f"Seconds per step{of_steps}",
            {
                "in all": [(step, taken / num) for (step, taken), num in zip(seconds, counts, strict=True)],
                "waiting for rows": [
                    (step, idle / num) for (step, _), idle, num in zip(seconds, waited, counts, strict=True)
                ],
            },
        ),
        Chart(held, {"": memory}),
    ]


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
