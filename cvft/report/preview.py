"""What a model is fed, before anything trains: rows -> one page with frames, tokens and what a check has found.

CheckUp + layouts -> rows to show -> frames at their seconds, the rendered conversation with its trained tokens -> preview.html
"""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from cvft.data.doctor.check import CheckUp
from cvft.data.doctor.findings import KINDS, SEVERITIES, Finding
from cvft.data.rows import Row, category_of
from cvft.data.video.spec import ClipRef, describe, file_of, name_of
from cvft.errors import DataError
from cvft.families.family import IGNORED_LABEL, LayOut, Layout
from cvft.families.text_encoder import open_tokenizer
from cvft.plan.job import Job
from cvft.report.frames import ClipFrames, collect_frames, spread
from cvft.report.html import write_page

NUM_ROWS = 200
"""Rows of a page where nobody says: with 24 frames of a clip they are about 10 MB."""

Decode = Callable[[Sequence[int]], str]
"""Token ids -> the text that they stand for, control tokens included."""


@dataclass(frozen=True)
class Rendering:
    """How rows become tokens.

    Args:
        lay_out: Lays out a row.
        decode: Writes tokens as text.
        about: Template, context and the like, for the head of the page: label -> value.
    """

    lay_out: LayOut
    decode: Decode
    about: Mapping[str, object]


def render_with(job: Job) -> Rendering | None:
    """Returns how a job's rows become tokens; None where its tokenizer is not on this machine."""
    if job.model.folder.is_absent:
        return None
    tokenizer = open_tokenizer(job.model.path)
    how = job.preprocessing
    return Rendering(
        job.family.layouts(job.model.folder, how),
        lambda ids: str(tokenizer.decode(list(ids), skip_special_tokens=False)),
        {"model": job.recipe.model.path, "template": how.template, "longest row": f"{how.max_tokens:,} tokens"},
    )


def write_preview(checked: CheckUp, path: Path, *, rendering: Rendering | None, num_rows: int = NUM_ROWS) -> str:
    """Writes the page.

    Args:
        checked: What a check has found, of all rows.
        path: The page; it appears whole or not at all.
        rendering: How rows become tokens; without it, the page shows texts alone.
        num_rows: Most rows that it shows; see `choose_rows`.

    Returns:
        A sentence for the terminal.
    """
    about = _findings_by_row(checked)
    rows = choose_rows(checked.rows, about, most=num_rows)
    clips = list(dict.fromkeys(clip for row in rows for clip in row.videos))
    decode = checked.how
    frames = collect_frames(
        [clip for clip in clips if clip in checked.clips], decode=decode, most=decode.sampling.max_frames
    )
    shown = {clip: frames.get(clip, ClipFrames(name_of(clip), reason="it does not decode")) for clip in clips}
    held_out = {file.path for file in checked.files if file.is_held_out}
    numbers = {clip: number for number, clip in enumerate(shown)}
    general = [finding for finding in checked.findings if not finding.rows]
    cards = {
        "has_tokens": rendering is not None,
        "clips": [_show_clip(clip, pictures, checked) for clip, pictures in shown.items()],
        "rows": [
            {
                "where": row.location,
                "file": row.source.name,
                "side": "held out" if row.source in held_out else "",
                "clips": [numbers[clip] for clip in row.videos],
                "category": category_of(row) or "",
                "findings": [_show_finding(finding) for finding in about[id(row)]],
                **_show_text(row, checked, rendering),
            }
            for row in rows
        ],
    }
    sampling = decode.sampling
    summary = {
        "data": ", ".join(file.path.name for file in checked.files),
        "rows": f"{len(rows):,} of {len(checked.rows):,} shown",
        "clips": f"{checked.num_clips:,}",
        "frames": f"{sampling.strategy}, at most {sampling.max_frames} a clip, {decode.decoder}",
        "findings": checked.totals,
        **({} if rendering is None else rendering.about),
    }
    write_page(
        path,
        template="preview.html.j2",
        scripts=("browse.js", "preview.js"),
        title=f"Preview of {checked.files[0].path.name}",
        summary=summary,
        findings=[_show_finding(finding) for finding in general[:NUM_ROWS]],
        num_more=max(0, len(general) - NUM_ROWS),
        has_tokens=rendering is not None,
        cards=cards,
    )
    return (
        f"preview   {path}: {len(rows):,} of {len(checked.rows):,} rows, {len(clips):,} clips; found {checked.totals}"
    )


def choose_rows(rows: Sequence[Row], about: Mapping[int, Sequence[Finding]], *, most: int) -> list[Row]:
    """Chooses the rows of a page, in the order of the files.

    At most half of them are the first ones that an error or a warning is about, the others evenly spread over all that are left.

    Args:
        rows: All rows.
        about: `id` of a row -> its findings.
        most: Most rows to choose.
    """
    if len(rows) <= most:
        return list(rows)
    odd = [number for number, row in enumerate(rows) if any(each.severity != "note" for each in about[id(row)])]
    chosen = set(odd[: max(1, most // 2)])
    left = [number for number in range(len(rows)) if number not in chosen]
    chosen |= {left[number] for number in spread(len(left), most - len(chosen))} if most > len(chosen) else set()
    return [rows[number] for number in sorted(chosen)]


def split_tokens(layout: Layout, decode: Decode) -> list[dict[str, Any]]:
    """Returns a row as pieces of text with the places of their tokens: `prompt`, `clip` or `trained`.

    Args:
        layout: The row as a model takes it.
        decode: Writes tokens as text.

    Returns:
        Pieces in order, each with `kind`, `text`, and the first and the last place, counted from 0. The tokens of frames are
        written as their number: what they stand for is a picture.
    """
    on_clip = [place for place, kind in enumerate(layout.token_type_ids) if kind == 1]
    clip = range(on_clip[0], max(on_clip[-1] + 1, layout.num_prefix_tokens)) if on_clip else range(0)

    def kind_of(place: int) -> str:
        return "trained" if layout.labels[place] != IGNORED_LABEL else "clip" if place in clip else "prompt"

    pieces = []
    for kind, group in groupby(range(len(layout)), key=kind_of):
        places = list(group)
        text = _write_clip(layout, places, decode) if kind == "clip" else _write(layout, places, decode)
        pieces.append({"kind": kind, "text": text, "first": places[0], "last": places[-1]})
    return pieces


def _write(layout: Layout, places: Sequence[int], decode: Decode) -> str:
    return decode([layout.input_ids[place] for place in places])


def _write_clip(layout: Layout, places: Sequence[int], decode: Decode) -> str:
    """Writes the tokens of a clip: how many stand for a picture, and the text between pictures."""
    parts = []
    for is_picture, group in groupby(places, key=lambda place: layout.token_type_ids[place] == 1):
        inner = list(group)
        parts.append(f"[{len(inner)}]" if is_picture else _write(layout, inner, decode))
    return " ".join(parts)


def _show_text(row: Row, checked: CheckUp, rendering: Rendering | None) -> dict[str, Any]:
    """The conversation of a row: its tokens where they are known, else its texts."""
    turns = [*(said for turn in row.history for said in turn), row.query]
    texts = {
        "query": row.query,
        "system": row.system or "",
        "history": [list(turn) for turn in row.history],
        "response": row.response,
    }
    texts["words"] = "\n".join([row.system or "", *turns, row.response])
    if rendering is None or not all(clip in checked.clips for clip in row.videos):
        return {**texts, "pieces": None}
    try:
        layout = rendering.lay_out(row, [checked.clips[clip] for clip in row.videos])
    except DataError:  # its finding says why
        return {**texts, "pieces": None}
    num_trained = sum(label != IGNORED_LABEL for label in layout.labels)
    return {
        **texts,
        "pieces": split_tokens(layout, rendering.decode),
        "num_tokens": len(layout),
        "num_trained": num_trained,
    }


def _show_clip(clip: ClipRef, frames: ClipFrames, checked: CheckUp) -> dict[str, Any]:
    info = checked.clips.get(clip)
    shown = {
        "name": describe(clip, str(file_of(clip))),
        "seconds": list(frames.seconds),
        "frames": [base64.b64encode(picture).decode("ascii") for picture in frames.pictures],
        "reason": frames.reason,
        "about": "",
    }
    if info is not None:
        pictures = len(frames.pictures)
        left_out = f", {pictures} of them pictured" if 0 < pictures < info.num_frames else ""
        shown["about"] = (
            f"{info.num_frames} frames{left_out}, {info.width_px} x {info.height_px}, of {info.duration_s:.1f} s "
            f"at {info.avg_fps:.4g} per second"
        )
    return shown


def _findings_by_row(checked: CheckUp) -> Mapping[int, Sequence[Finding]]:
    about: dict[int, list[Finding]] = defaultdict(list)
    for finding in checked.findings:
        for row in finding.rows:
            about[id(row)].append(finding)
    gravest = {severity: number for number, severity in enumerate(SEVERITIES)}
    for findings in about.values():
        findings.sort(key=lambda finding: gravest[finding.severity])
    return about


def _show_finding(finding: Finding) -> dict[str, str]:
    shown = finding.to_dict()
    return {**shown, "means": KINDS[finding.kind].means}
