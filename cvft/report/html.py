"""A run's numbers, curves and examples -> one `report.html` that needs nothing but itself.

Pictures are inside the page, and its content policy forbids scripts, every outside resource, and every style but the one
whose hash it states. All text comes from files and models, so all of it is escaped, by the template engine.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from cvft.files import write_whole
from cvft.tables import NO_NUMBER, Cell, Table, percent, to_html

PERCENT_METRICS: Mapping[str, str] = {"exact_match": "Exact match", "token_f1": "Token F1", "rouge_l": "ROUGE-L"}
"""Metrics from 0 to 1 that are shown in per cent, with their headings."""

COUNTS: Mapping[str, str] = {"num_rows": "Rows", "num_cut": "Cut answers"}
"""Counts, with their headings."""

_POLICY = "default-src 'none'; img-src data:; style-src '{hash}'; base-uri 'none'; form-action 'none'"


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

    @property
    def thumbnails(self) -> list[tuple[int, bytes]]:
        """Second and picture of each thumbnail."""
        assert len(self.frames_jpeg) == len(self.seconds), "one second per thumbnail"
        return list(zip(self.seconds, self.frames_jpeg, strict=True))


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
    # Imported here: whoever only wants the terminal's table does not need a template engine.
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("cvft.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"table": to_html, "data_url": _data_url}
    style = files("cvft.report").joinpath("report.css").read_text(encoding="utf-8")
    page = environment.get_template("report.html.j2").render(
        policy=_POLICY.format(hash=_source_hash(style)),
        style=Markup(style),
        title=title,
        summary=summary,
        results=_results(metrics),
        categories=_categories(metrics),
        curves=[(curve.stem.replace("_", " "), curve.read_bytes()) for curve in curves],
        examples=examples,
    )
    # A model may answer with half a surrogate pair, which UTF-8 cannot hold.
    write_whole(path, page.encode("utf-8", errors="replace").decode("utf-8"))
    return path


def _results(metrics: Mapping[str, Mapping[str, object]]) -> Table | None:
    if not metrics:
        return None
    keys = list(dict.fromkeys(key for values in metrics.values() for key in values if key != "categories"))
    rows = [[Cell(name), *(Cell(_number(key, values.get(key))) for key in keys)] for name, values in metrics.items()]
    return Table(["", *(_heading(key) for key in keys)], rows)


def _categories(metrics: Mapping[str, Mapping[str, object]]) -> Table | None:
    by_model = [_as_mapping(values.get("categories")) for values in metrics.values()]
    rows = []
    for category in dict.fromkeys(name for groups in by_model for name in groups):
        scores = [_as_mapping(groups.get(category)) for groups in by_model]
        count = next((score["num_rows"] for score in scores if "num_rows" in score), None)
        bars = [_with_bar(score.get("exact_match")) for score in scores]
        rows.append([Cell(str(category)), Cell(_number("num_rows", count)), *bars])
    return Table(["", "Rows", *metrics], rows) if rows else None


def _as_mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def _with_bar(value: object) -> Cell:
    return Cell(percent(value), share=float(value) if isinstance(value, int | float) else None)


def _heading(key: str) -> str:
    return PERCENT_METRICS.get(key) or COUNTS.get(key) or key.replace("_", " ").capitalize()


def _number(key: str, value: object) -> str:
    if value is None:
        return NO_NUMBER
    if isinstance(value, int | float) and key in PERCENT_METRICS:
        return percent(value)
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _data_url(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _source_hash(text: str) -> str:
    """The name of a style in a content policy. Source: Content Security Policy Level 3, hash-source."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}"
