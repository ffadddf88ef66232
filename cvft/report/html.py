"""A run's numbers, curves and examples -> one `report.html` that needs nothing but itself.

Pictures are inside the page, and its content policy forbids scripts and every outside resource. All text comes from
files and models, so all of it is escaped.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path

PERCENT_METRICS: Mapping[str, str] = {"exact_match": "Exact match", "token_f1": "Token F1", "rouge_l": "ROUGE-L"}
"""Metrics from 0 to 1 that are shown in per cent, with their headings."""

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@dataclass(frozen=True)
class Answer:
    """What a model said, and whether that is right; whoever scores decides the latter, and the page only shows it."""

    text: str
    is_right: bool


@dataclass(frozen=True, kw_only=True)
class Example:
    """One val row as the page shows it.

    Args:
        video: The clip's name.
        question: What was asked.
        expected: The right answer.
        answers: Who answered -> the answer; the same names as in the metrics.
        frames_jpeg: Thumbnails of some of the frames that the model saw, as JPEG files.
        seconds: The second of each thumbnail.
    """

    video: str
    question: str
    expected: str
    answers: Mapping[str, Answer]
    frames_jpeg: Sequence[bytes] = ()
    seconds: Sequence[int] = ()


def write_report(
    path: Path,
    *,
    title: str,
    summary: Mapping[str, object],
    metrics: Mapping[str, Mapping[str, object]],
    curves: Sequence[Path] = (),
    examples: Sequence[Example] = (),
) -> Path:
    """Writes the page; it appears whole or not at all.

    Args:
        path: The page.
        title: The run's name.
        summary: What was trained on what: label -> value, shown in order.
        metrics: Who answered ("base", "tuned") -> what `compute_metrics` returned.
        curves: PNG files.
        examples: Val rows to show, in order.

    Returns:
        The path.
    """
    parts = [
        f"<h1>{escape(title)}</h1>",
        _summary(summary),
        _section("Results", _metrics_table(metrics) + _category_table(metrics)),
        _section("Training", _curves(curves)),
        _section("Examples", "".join(_example(example) for example in examples)),
    ]
    style = files("cvft.report").joinpath("report.css").read_text(encoding="utf-8")
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in parts if part)
        + "\n</main>\n</body>\n</html>\n"
    )
    # A model may answer with half a surrogate pair, which UTF-8 cannot hold.
    _write_whole(path, page.encode("utf-8", errors="replace"))
    return path


def _section(heading: str, body: str) -> str:
    return f"<section>\n<h2>{heading}</h2>\n{body}</section>" if body else ""


def _summary(summary: Mapping[str, object]) -> str:
    if not summary:
        return ""
    items = "".join(f"<div><dt>{escape(str(k))}</dt><dd>{escape(str(v))}</dd></div>" for k, v in summary.items())
    return f'<dl class="summary">{items}</dl>'


def _metrics_table(metrics: Mapping[str, Mapping[str, object]]) -> str:
    if not metrics:
        return ""
    columns = list(dict.fromkeys(key for values in metrics.values() for key in values if key != "categories"))
    head = "".join(f"<th>{escape(_heading(key))}</th>" for key in columns)
    rows = "".join(
        f"<tr><th>{escape(name)}</th>"
        + "".join(f"<td>{escape(_number(key, values.get(key)))}</td>" for key in columns)
        + "</tr>"
        for name, values in metrics.items()
    )
    return f'<div class="wide"><table><thead><tr><th></th>{head}</tr></thead><tbody>{rows}</tbody></table></div>\n'


def _category_table(metrics: Mapping[str, Mapping[str, object]]) -> str:
    by_name = {name: _as_mapping(values.get("categories")) for name, values in metrics.items()}
    categories = list(dict.fromkeys(category for groups in by_name.values() for category in groups))
    if not categories:
        return ""
    head = "".join(f"<th>{escape(name)}</th>" for name in by_name)
    rows = []
    for category in categories:
        groups = [_as_mapping(categories_of.get(category)) for categories_of in by_name.values()]
        count = next((group["num_rows"] for group in groups if "num_rows" in group), None)
        cells = "".join(f"<td>{_bar(group.get('exact_match'))}</td>" for group in groups)
        rows.append(f"<tr><th>{escape(category)}</th><td>{escape(_number('num_rows', count))}</td>{cells}</tr>")
    return (
        '<h3>Exact match by kind of question</h3>\n<div class="wide"><table><thead><tr><th></th><th>Rows</th>'
        f"{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>\n"
    )


def _as_mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def _bar(value: object) -> str:
    if not isinstance(value, int | float):
        return "–"
    width = round(100 * min(max(float(value), 0.0), 1.0), 1)
    percent = escape(_number("exact_match", value))
    return f'<span class="bar"><span style="width:{width}%"></span></span><span class="percent">{percent}</span>'


def _heading(key: str) -> str:
    return PERCENT_METRICS.get(key, "Rows" if key == "num_rows" else key.replace("_", " ").capitalize())


def _number(key: str, value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, int | float) and key in PERCENT_METRICS:
        return f"{100 * value:.1f} %"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _curves(curves: Sequence[Path]) -> str:
    pictures = "".join(
        f'<img alt="{escape(path.stem.replace("_", " "))}" src="{_data_url(path.read_bytes(), kind="png")}">'
        for path in curves
    )
    return f'<div class="curves">{pictures}</div>\n' if pictures else ""


def _example(example: Example) -> str:
    assert len(example.frames_jpeg) == len(example.seconds), "one second per thumbnail"
    frames = "".join(
        f'<figure><img alt="frame at {second} s" src="{_data_url(data, kind="jpeg")}">'
        f"<figcaption>{second} s</figcaption></figure>"
        for data, second in zip(example.frames_jpeg, example.seconds, strict=True)
    )
    answers = "".join(_answer(name, said) for name, said in example.answers.items())
    return (
        f'<article>\n<p class="clip">{escape(example.video)}</p>\n'
        + (f'<div class="frames">{frames}</div>\n' if frames else "")
        + f'<p class="question">{escape(example.question)}</p>\n'
        f'<dl class="answers"><dt>expected</dt><dd class="expected">{escape(example.expected)}</dd>{answers}</dl>\n'
        "</article>\n"
    )


def _answer(name: str, said: Answer) -> str:
    kind, mark = ("right", "✓") if said.is_right else ("wrong", "✗")
    shown = escape(said.text) if said.text.strip() else "<em>no answer</em>"
    return (
        f'<dt>{escape(name)}</dt><dd class="{kind}">'
        f'<span class="mark" role="img" aria-label="{kind}">{mark}</span>{shown}</dd>'
    )


def _data_url(data: bytes, *, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _write_whole(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with part.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
