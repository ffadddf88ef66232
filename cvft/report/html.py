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
from typing import Any

from cvft.files import write_whole
from cvft.report.results import captions_table, categories_table, describe_captions, kinds_table, results_table
from cvft.tables import to_html

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
    metrics: Mapping[str, Mapping[str, Any]],
    findings: Sequence[str] = (),
    curves: Sequence[Path] = (),
    examples: Sequence[Example] = (),
) -> Path:
    """Writes the page; it appears whole or not at all.

    Args:
        path: The page.
        title: The run's name.
        summary: What was trained on what: label -> value, shown in order.
        metrics: Who answered ("base", "tuned") -> what `compute_metrics` returned.
        findings: What the numbers say, in sentences.
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
        results=results_table(metrics),
        findings=findings,
        kinds=kinds_table(metrics),
        captions=captions_table(metrics),
        about_captions=describe_captions(metrics) if captions_table(metrics) else "",
        categories=categories_table(metrics),
        curves=[(curve.stem.replace("_", " "), curve.read_bytes()) for curve in curves],
        examples=examples,
    )
    # A model may answer with half a surrogate pair, which UTF-8 cannot hold.
    write_whole(path, page.encode("utf-8", errors="replace").decode("utf-8"))
    return path


def _data_url(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _source_hash(text: str) -> str:
    """The name of a style in a content policy. Source: Content Security Policy Level 3, hash-source."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}"
