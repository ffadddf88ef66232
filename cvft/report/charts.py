"""Curves as SVG inside the page: drawn without a script, sharp at any size, in the colours of the page's theme.

series of (step, value) -> one figure with axes, legend and the same numbers as a table
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH, HEIGHT = 640, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 10, 30
_MAX_MARKED = 30
"""Most points of a line that are marked one by one; few points without marks would be hard to see."""

MAX_TABLE_ROWS = 200
"""Most steps in the table under a chart, evenly spread."""


@dataclass(frozen=True)
class Chart:
    """One picture.

    Args:
        title: What is shown, with its unit.
        series: Name of a line -> its (step, value) points, in order of steps.
        from_zero: Whether the axis begins at 0.
    """

    title: str
    series: Mapping[str, Sequence[tuple[int, float]]]
    from_zero: bool = True


def draw(chart: Chart) -> Markup:
    """Draws a chart as a `<figure>`."""
    lines = {name: [point for point in points if math.isfinite(point[1])] for name, points in chart.series.items()}
    lines = {name: points for name, points in lines.items() if points}
    assert lines, "a chart without points is not drawn"
    steps = [step for points in lines.values() for step, _ in points]
    values = [value for points in lines.values() for _, value in points]
    low, high = (min(0.0, *values) if chart.from_zero else min(values)), max(values)
    if chart.from_zero and not high > low:
        high = low + 1.0  # nothing but zeros
    ticks = nice_ticks(low, high)
    low, high = min(ticks[0], low), max(ticks[-1], high)
    first, last = min(steps), max(steps)

    def x(step: float) -> float:
        span = last - first
        return _LEFT + (WIDTH - _LEFT - _RIGHT) * ((step - first) / span if span else 0.5)

    def y(value: float) -> float:
        return _TOP + (HEIGHT - _TOP - _BOTTOM) * (1 - (value - low) / (high - low))

    parts = [_grid(ticks, y)]
    parts += [_tick(x(step), step) for step in sorted({first, last, *_inner_steps(first, last)})]
    parts += [
        _line(number, [(x(step), y(value)) for step, value in points]) for number, points in enumerate(lines.values())
    ]
    parts.append(Markup('<line class="cursor" y1="{}" y2="{}" hidden="hidden"></line>').format(_TOP, HEIGHT - _BOTTOM))
    legend = Markup("").join(
        Markup('<span class="key line-{}">{}</span>').format(number, name) for number, name in enumerate(lines) if name
    )
    data = json.dumps(
        {"left": _LEFT, "right": WIDTH - _RIGHT, "first": first, "last": last, "lines": list(lines.items())},
        ensure_ascii=False,
    )
    return Markup(
        '<figure class="chart"><figcaption>{title}<span class="keys">{legend}</span><output></output></figcaption>'
        '<svg viewBox="0 0 {width} {height}" role="img" aria-label="{label}" data-chart="{data}">{parts}</svg>'
        "<details><summary>numbers</summary>{table}</details></figure>"
    ).format(
        title=chart.title,
        legend=legend,
        width=WIDTH,
        height=HEIGHT,
        label=_describe(chart.title, lines),
        data=data,
        parts=Markup("").join(parts),
        table=_table(lines),
    )


def nice_ticks(low: float, high: float, *, num_ticks: int = 5) -> list[float]:
    """Returns round numbers from about `low` to about `high`, about `num_ticks` of them.

    Example:
        >>> nice_ticks(0, 2.3)
        [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]
        >>> nice_ticks(7.0, 7.0)
        [6.4, 6.6, 6.8, 7.0, 7.2, 7.4, 7.6]
    """
    if not high > low:
        half = abs(high) / 14 or 0.5
        low, high = low - half, high + half
    rough = (high - low) / num_ticks
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough * (1 - 1e-9))
    start, end = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(start, end + 1)]


def show_number(value: float) -> str:
    """Returns a number in few characters: `0.0001` as `1e-4`.

    Example:
        >>> [show_number(value) for value in (0.0, 12.5, 0.00012, 1234567.0)]
        ['0', '12.5', '1.2e-4', '1.23e6']
    """
    if value and not 1e-3 <= abs(value) < 1e5:
        digits, _, power = f"{value:.2e}".partition("e")
        return f"{float(digits):g}e{int(power)}"
    return f"{value:.4g}"


def _grid(ticks: Sequence[float], y: object) -> Markup:
    assert callable(y)
    return Markup("").join(
        Markup(
            '<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"></line><text class="tick end" x="{}" y="{}">{}</text>'
        ).format(
            _LEFT, WIDTH - _RIGHT, _round(y(tick)), _round(y(tick)), _LEFT - 8, _round(y(tick) + 4), show_number(tick)
        )
        for tick in ticks
    )


def _tick(x: float, step: int) -> Markup:
    return Markup('<text class="tick middle" x="{}" y="{}">{}</text>').format(_round(x), HEIGHT - 10, step)


def _inner_steps(first: int, last: int) -> list[int]:
    """Round steps between the ends, none so near to an end that their labels would touch."""
    gap = (last - first) / 8
    return [
        int(tick)
        for tick in nice_ticks(first, last, num_ticks=4)
        if first + gap <= tick <= last - gap and tick == int(tick)
    ]


def _line(number: int, points: Sequence[tuple[float, float]]) -> Markup:
    path = " ".join(f"{_round(x)},{_round(y)}" for x, y in points)
    marks = Markup("").join(
        Markup('<circle class="line-{}" cx="{}" cy="{}" r="3"></circle>').format(number, _round(x), _round(y))
        for x, y in points
    )
    line = Markup('<polyline class="line-{}" points="{}"></polyline>').format(number, path)
    return line + marks if len(points) <= _MAX_MARKED else line


def _round(value: float) -> float:
    return round(value, 1)


def _describe(title: str, lines: Mapping[str, Sequence[tuple[int, float]]]) -> str:
    ends = [
        f"{name + ' ' if name else ''}from {show_number(points[0][1])} at step {points[0][0]} "
        f"to {show_number(points[-1][1])} at step {points[-1][0]}"
        for name, points in lines.items()
    ]
    return f"{title}: {'; '.join(ends)}"


def _table(lines: Mapping[str, Sequence[tuple[int, float]]]) -> Markup:
    by_step: dict[int, dict[str, float]] = {}
    for name, points in lines.items():
        for step, value in points:
            by_step.setdefault(step, {})[name] = value
    steps = sorted(by_step)
    count = min(len(steps), MAX_TABLE_ROWS)
    picked = [steps[index * (len(steps) - 1) // max(1, count - 1)] for index in range(count)]
    head = Markup("").join(Markup('<th scope="col">{}</th>').format(name or "value") for name in lines)
    rows = Markup("").join(
        Markup('<tr><th scope="row">{}</th>{}</tr>').format(
            step,
            Markup("").join(
                Markup("<td>{}</td>").format(show_number(by_step[step][name]) if name in by_step[step] else "")
                for name in lines
            ),
        )
        for step in picked
    )
    return Markup(
        '<div class="wide" tabindex="0" role="group" aria-label="numbers"><table>'
        '<thead><tr><th scope="col">step</th>{}</tr></thead><tbody>{}</tbody></table></div>'
    ).format(head, rows)
