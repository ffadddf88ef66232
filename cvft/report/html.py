"""A run's numbers, curves and rows -> one `report.html` that needs nothing but itself.

Pictures, style and script are inside the page; its content policy forbids every outside resource, and every script and style but
those whose hash it states. All text comes from files and models: the template engine escapes it, and the script sets it as text.
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
from cvft.report.cards import to_script_data
from cvft.report.charts import Chart, draw
from cvft.report.results import captions_table, categories_table, describe_captions, kinds_table, results_table
from cvft.tables import Table, to_html

_POLICY = (
    "default-src 'none'; img-src data:; style-src '{style}'; script-src '{script}'; base-uri 'none'; form-action 'none'"
)


@dataclass(frozen=True)
class ProbeSet:
    """Rows that a training is not about, answered before and after it.

    Args:
        name: What they are called.
        metrics: Who answered -> what `compute_metrics` returned.
        findings: What the numbers say, in sentences.
    """

    name: str
    metrics: Mapping[str, Mapping[str, Any]]
    findings: Sequence[str]


def write_report(
    path: Path,
    *,
    title: str,
    summary: Mapping[str, object],
    metrics: Mapping[str, Mapping[str, Any]],
    headline: str = "",
    details: Mapping[str, object] | None = None,
    warnings: Sequence[str] = (),
    findings: Sequence[str] = (),
    judged: Table | None = None,
    probes: Sequence[ProbeSet] = (),
    charts: Sequence[Chart] = (),
    health: Mapping[str, Any] | None = None,
    answered: Mapping[str, Any] | None = None,
    cards: Mapping[str, Any] | None = None,
) -> Path:
    """Writes the page; it appears whole or not at all.

    Args:
        path: The page.
        title: The run's name.
        summary: What was trained on what: label -> value, shown in order.
        metrics: Who answered ("base", "tuned") -> what `compute_metrics` returned.
        headline: What came out, in a sentence.
        details: Versions and hashes: label -> value, shown on demand.
        warnings: What whoever uses the model has to know first, each a text of one or more lines.
        findings: What the numbers say, in sentences.
        probes: Probe sets, in order.
        judged: What judges said, where one was asked.
        charts: Curves, with at least one point each.
        health: What was odd about the data: see `cvft.plan.health.Health`.
        answered: What `follow_answers` returned.
        cards: What `build_cards` returned.

    Returns:
        The path.
    """
    captions = captions_table(metrics)
    return write_page(
        path,
        template="report.html.j2",
        scripts=("browse.js", "report.js"),
        title=title,
        headline=headline,
        summary=summary,
        details=details or {},
        warnings=warnings,
        results=results_table(metrics),
        findings=findings,
        kinds=kinds_table(metrics),
        captions=captions,
        about_captions=describe_captions(metrics) if captions else "",
        categories=categories_table(metrics),
        judged=judged,
        probes=[
            {"set": each, "results": results_table(each.metrics), "categories": categories_table(each.metrics)}
            for each in probes
        ],
        charts=charts,
        health=health,
        answered=answered,
        cards=cards if cards and cards["rows"] else None,
    )


def write_page(path: Path, *, template: str, scripts: Sequence[str], **values: object) -> Path:
    """Writes a page of one of our templates; it appears whole or not at all.

    Args:
        path: The page.
        template: Name of the template.
        scripts: Names of its scripts, in the order in which they run.
        values: What the template shows.

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
    environment.filters |= {"table": to_html, "chart": draw, "script_data": to_script_data}
    style, *parts = (
        files("cvft.report").joinpath(name).read_text(encoding="utf-8") for name in ("report.css", *scripts)
    )
    script = "\n".join(parts)
    page = environment.get_template(template).render(
        policy=_POLICY.format(style=_source_hash(style), script=_source_hash(script)),
        style=Markup(style),
        script=Markup(script),
        **values,
    )
    # A model may answer with half a surrogate pair, which UTF-8 cannot hold.
    write_whole(path, page.encode("utf-8", errors="replace").decode("utf-8"))
    return path


def _source_hash(text: str) -> str:
    """The name of a style or script in a content policy. Source: Content Security Policy Level 3, hash-source."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}"
