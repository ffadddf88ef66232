"""Checks files of rows and their clips: reads every row, decodes every clip once, and collects the findings.

DataFiles -> rows, refused rows -> clips decoded by others -> `CheckUp`: findings and counts -> `describe` or `to_dict`
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cvft.data.catalog import ClipCatalog
from cvft.data.check import fetch_clips, inspect_clips, look_at_clips
from cvft.data.doctor.clips import check_clips_of, compare_looks
from cvft.data.doctor.findings import KINDS, SEVERITIES, Finding, Severity
from cvft.data.doctor.rows import check_rows
from cvft.data.fetch.cache import ClipCache
from cvft.data.rows import Row, give_budget, survey_rows
from cvft.data.video.loader import DecodeSettings
from cvft.data.video.looks import ClipLooks
from cvft.data.video.process import ClipInfo
from cvft.data.video.spec import ClipRef
from cvft.errors import NUM_SHOWN, quote, show_kinds, visible
from cvft.row_formats import FormatName

SCHEMA_VERSION = 1
"""Version of what `CheckUp.to_dict` returns: a number for each change after which a reader would misunderstand it."""

WIDTH = 80
"""Columns of a terminal that a description is set for; only longer words, such as paths, go beyond."""


@dataclass(frozen=True)
class DataFile:
    """A file of rows to check.

    Args:
        path: The file.
        is_held_out: Whether its rows are evaluated and not trained on.
        format: How its rows are written; None: as is said of all files.
        video_root: Folder that its relative clip paths start from; None: as is said of all files.
        max_frames: Most frames of its clips, where rows say nothing of it; None for those of the sampling rule.
        fps: Frames per second of its clips, where rows say nothing of it; None for those of the sampling rule.
    """

    path: Path
    is_held_out: bool = False
    format: FormatName | None = None
    video_root: Path | None = None
    max_frames: int | None = None
    fps: float | None = None


@dataclass(frozen=True)
class CheckUp:
    """What a check found.

    Args:
        files: The files that were read.
        how: How clips were decoded.
        rows: The rows that can be read.
        clips: Facts of the clips that decode.
        num_clips: Clips of the rows.
        num_decoded: Those among them that were decoded for this check, or could not be fetched for it.
        findings: What was found, in the order of the table of kinds.
        num_not_compared: Clips on two sides that were not compared by what they look like, as was asked for.
    """

    files: Sequence[DataFile]
    how: DecodeSettings
    rows: Sequence[Row]
    clips: Mapping[ClipRef, ClipInfo]
    num_clips: int
    num_decoded: int
    findings: Sequence[Finding]
    num_not_compared: int = 0

    def with_more(self, findings: Sequence[Finding]) -> CheckUp:
        """Returns the same with further findings in their places."""
        return replace(self, findings=_in_order([*self.findings, *findings]))

    def count(self, severity: Severity) -> int:
        """Returns how many findings are of a severity."""
        return sum(finding.severity == severity for finding in self.findings)

    @property
    def totals(self) -> str:
        """How many errors, warnings and notes there are, in words."""
        counts = [(self.count(severity), severity) for severity in SEVERITIES]
        return ", ".join(f"{count} {severity}{'' if count == 1 else 's'}" for count, severity in counts)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values for JSON."""
        counts = Counter(finding.kind for finding in self.findings)
        return {
            "schema": SCHEMA_VERSION,
            "files": [{"path": str(file.path), "held_out": file.is_held_out} for file in self.files],
            "video": {
                "sampling": self.how.sampling.strategy,
                "max_frames": self.how.sampling.max_frames,
                "decoder": self.how.decoder,
            },
            "num_rows": len(self.rows),
            "num_clips": self.num_clips,
            "num_decoded": self.num_decoded,
            "counts": {severity: self.count(severity) for severity in SEVERITIES},
            "kinds": [{"id": kind, **vars(KINDS[kind]), "count": count} for kind, count in counts.items()],
            "findings": [finding.to_dict() for finding in self.findings],
        }


def check_files(
    files: Sequence[DataFile],
    *,
    how: DecodeSettings,
    video_root: Path | None = None,
    format: FormatName = "auto",
    clips: Path | None = None,
    catalog: ClipCatalog | None = None,
    cache: ClipCache | None = None,
    num_workers: int | None = None,
    looks: bool = True,
    on_progress: Callable[[int, int], None] | None = None,
) -> CheckUp:
    """Checks rows and their clips; writes what it learns of clips to the catalog, and clips of URLs and inside files to folders.

    Args:
        files: The files of rows.
        how: How clips are decoded.
        video_root: Folder that relative clip paths start from; by default that of each file.
        format: How the rows are written; `auto` finds out for each file.
        clips: Folder to write clips to that lie inside a file; without one they are refused.
        catalog: What is known of clips that were decoded in this way: these are not decoded again, and all others are recorded.
        cache: Fetches clips of URLs; without it, rows that name clips so are refused.
        num_workers: See `cvft.data.check.check_clips`.
        looks: Whether to find out what clips look like. Without, only those are compared whose looks the catalog knows.
        on_progress: Called with clips done and clips in all.

    Returns:
        The findings; what is wrong with rows and clips is among them.

    Raises:
        CvftError: when clips cannot be decoded at all on this machine.
    """
    rows, findings = read_files(files, video_root=video_root, format=format, clips=clips, cache=cache)
    asked = list(dict.fromkeys(clip for row in rows for clip in row.videos))
    refused = {} if cache is None else fetch_clips(rows, cache)
    inspected, num_decoded = inspect_clips(
        [clip for clip in asked if clip not in refused],
        sampling=how.sampling,
        decoder=how.decoder,
        timeout_s=how.timeout_s,
        memory_limit_gib=how.memory_gib,
        num_workers=num_workers,
        catalog=catalog,
        on_progress=on_progress,
    )
    found = {clip: refused.get(clip) or inspected[clip] for clip in asked}
    proved = {clip: outcome for clip, outcome in found.items() if isinstance(outcome, ClipInfo)}
    held_out = {file.path for file in files if file.is_held_out}
    findings += check_clips_of(rows, found, sampling=how.sampling, held_out=held_out)
    findings += check_rows(rows, proved, sampling=how.sampling)

    num_unseen = 0

    def look(contents: Mapping[ClipRef, str]) -> Mapping[ClipRef, ClipLooks]:
        nonlocal num_unseen
        if looks:
            return look_at_clips(
                contents, decode=how, num_workers=num_workers, catalog=catalog, on_progress=on_progress
            )
        known = {} if catalog is None else catalog.find_looks(contents.values())
        seen = {clip: known[content] for clip, content in contents.items() if content in known}
        num_unseen = len(contents) - len(seen)
        return seen

    findings += compare_looks(rows, proved, look=look, held_out=held_out)
    num_tried = num_decoded + len(refused)
    return CheckUp(files, how, rows, proved, len(asked), num_tried, _in_order(findings), num_unseen)


def read_files(
    files: Sequence[DataFile],
    *,
    video_root: Path | None,
    format: FormatName,
    clips: Path | None = None,
    cache: ClipCache | None,
) -> tuple[list[Row], list[Finding]]:
    """Reads the rows of all files; see `check_files`.

    Returns:
        The rows that can be read, and what is wrong with the others.
    """
    rows: list[Row] = []
    findings: list[Finding] = []
    for file in files:
        good, problems = survey_rows(
            file.path,
            video_root=file.video_root or video_root,
            format=file.format or format,
            clips=clips,
            url_cache=None if cache is None else cache.folder,
        )
        rows += give_budget(good, max_frames=file.max_frames, fps=file.fps)
        findings += [Finding("row_refused", problem) for problem in problems]
    return rows, findings


def describe(checked: CheckUp) -> str:
    """Writes a check for a terminal: how much of each kind, with three examples."""
    sampling = checked.how.sampling
    known = checked.num_clips - checked.num_decoded
    clips = f"{checked.num_clips} clips" + (f" ({known} proved before)" if known else "")
    names = ", ".join(file.path.name for file in checked.files)
    head = f"{names}: {len(checked.rows)} rows that can be read, {clips}"
    seen = f"looked at as {quote(sampling.strategy)} sampling shows them, at most {sampling.max_frames} frames each"
    lines = [*_wrap(head, ""), *_wrap(seen, ""), checked.totals]
    for kind, about in KINDS.items():
        problems = [finding.problem for finding in checked.findings if finding.kind == kind]
        if not problems:
            continue
        lines += ["", *_wrap(f"{about.severity} {kind}: {len(problems)}, {about.means}", "")]
        texts = list(show_kinds(problems))
        for text, _ in texts[:NUM_SHOWN]:
            for number, line in enumerate(text.split("\n")):
                lines += _wrap(line.strip(), "    " if number else "  ")
        if num_more := sum(count for _, count in texts[NUM_SHOWN:]):
            lines.append(f"  and {num_more} more: --output check.json lists all")
        if about.hint:
            lines += _wrap(f"hint: {about.hint}", "  ")
    return "\n".join(lines)


def _wrap(text: str, indent: str) -> list[str]:
    return textwrap.wrap(
        visible(text),
        WIDTH,
        initial_indent=indent,
        subsequent_indent=f"{indent}  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _in_order(findings: Sequence[Finding]) -> list[Finding]:
    order = {kind: number for number, kind in enumerate(KINDS)}
    return sorted(findings, key=lambda finding: order[finding.kind])
