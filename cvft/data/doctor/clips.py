"""What is odd about clips: those that do not decode, what their pictures show, and copies of one clip.

clips decoded once -> findings, each with the rows that it is about
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

from cvft.data.check import name_rows, report_clip
from cvft.data.doctor.findings import Finding, find
from cvft.data.doctor.similar import find_similar
from cvft.data.rows import Row
from cvft.data.video.looks import ClipLooks
from cvft.data.video.process import ClipInfo
from cvft.data.video.sample import Sampling, cut_note, shown_seconds
from cvft.data.video.spec import ClipRef, content_of, describe, file_of, sampling_for, whole_of
from cvft.errors import ClipError

_NEED = {
    "single_frame": "a clip of several frames",
    "black": "pictures that show something",
    "white": "pictures that show something",
    "frozen": "pictures that change",
    "repeated_picture": "each second once",
    "variable_frame_rate": "even distances, or nothing: this is read as it is",
    "turned": "upright pictures, or nothing: this is read as it is",
}
"""What would be expected, by the kind of an oddity."""


def check_clips_of(
    rows: Sequence[Row],
    found: Mapping[ClipRef, ClipInfo | ClipError],
    *,
    sampling: Sampling,
    held_out: Collection[Path] = (),
) -> list[Finding]:
    """Finds what is odd about the clips of rows.

    Args:
        rows: The rows.
        found: What decoding each of their clips found.
        sampling: The rule that chooses frames.
        held_out: Files whose rows are held out from training; with none, no file is known to be.
    """
    rows_of: dict[ClipRef, list[Row]] = defaultdict(list)
    for row in rows:
        for clip in dict.fromkeys(row.videos):
            rows_of[clip].append(row)
    findings: list[Finding] = []
    copies: dict[str, list[ClipRef]] = defaultdict(list)
    files: dict[str, list[ClipRef]] = defaultdict(list)
    for clip, clip_rows in rows_of.items():
        outcome = found[clip]
        if isinstance(outcome, ClipError):
            findings.append(Finding("clip_refused", report_clip(clip, outcome, clip_rows), tuple(clip_rows)))
        else:
            copies[content_of(clip, outcome.sha256)].append(clip)
            files[outcome.sha256].append(clip)
            findings += _look_at(outcome, clip, clip_rows, sampling_for(clip, sampling))
    for clips in copies.values():
        findings += _compare_names(clips, rows_of)
    for clips in files.values():
        findings += _compare_sides([(clip, row) for clip in clips for row in rows_of[clip]], held_out)
    return findings


def compare_looks(
    rows: Sequence[Row],
    clips: Mapping[ClipRef, ClipInfo],
    *,
    look: Callable[[Mapping[ClipRef, str]], Mapping[ClipRef, ClipLooks]],
    held_out: Collection[Path] = (),
) -> Iterator[Finding]:
    """Finds clips in two files of rows that look like one clip although their bytes differ.

    Files are looked at whole, whatever stretches of them the rows show.

    Args:
        rows: The rows.
        clips: Facts of the clips that decode.
        look: Finds out what clips look like, given with the hashes of their bytes.
        held_out: Files whose rows are held out from training; with none, the files are compared with one another.
    """
    rows_of: dict[str, list[Row]] = defaultdict(list)
    whole: dict[str, ClipRef] = {}
    for row in rows:
        by_content = {clips[clip].sha256: clip for clip in reversed(row.videos) if clip in clips}
        for sha256, clip in by_content.items():
            rows_of[sha256].append(row)
            whole.setdefault(sha256, whole_of(clip))
    # a clip of both sides has been told by its bytes
    sides: dict[Path, dict[ClipRef, str]] = defaultdict(dict)
    for sha256, about in rows_of.items():
        if len({row.source for row in about}) == 1:
            sides[about[0].source][whole[sha256]] = sha256
    pairs = pair_files(list(sides), held_out)
    if not pairs:
        return
    looks = look(
        {clip: content_of(clip, sha256) for pair in pairs for file in pair for clip, sha256 in sides[file].items()}
    )
    for one, other in pairs:
        mine, theirs = ({clip: looks[clip] for clip in sides[file] if clip in looks} for file in (one, other))
        for clip, like, offset_s in find_similar(mine, theirs):
            first, second = rows_of[sides[one][clip]], rows_of[sides[other][like]]
            kind = "similar_clip_on_both_sides" if held_out else "similar_clips"
            got = f"pictures of the clip of {_name(first, clip)}, {offset_s:.1f} s apart"
            need = "the rows of one clip in one file"
            yield find(kind, _name(second, like), got, need, rows=[*first, *second])


def pair_files(files: Sequence[Path], held_out: Collection[Path]) -> list[tuple[Path, Path]]:
    """Returns which files of rows are compared by what their clips look like: both sides, or all where there are no sides."""
    pairs = itertools.combinations(files, 2)
    return [(one, other) for one, other in pairs if not held_out or (one in held_out) != (other in held_out)]


def _look_at(info: ClipInfo, clip: ClipRef, rows: Sequence[Row], sampling: Sampling) -> Iterator[Finding]:
    where = _name(rows, clip)
    for oddity in info.oddities or ():
        yield find(oddity.kind, where, oddity.got, _NEED[oddity.kind], rows=rows)
    shown_s = shown_seconds(
        num_frames_total=info.num_frames_total, avg_fps=info.avg_fps, duration_s=info.duration_s, sampling=sampling
    )
    cut = cut_note(duration_s=info.duration_s, shown_s=shown_s, sampling=sampling)
    for note in info.notes:
        kind = "clip_cut" if note == cut else "frames_repeated"
        yield find(kind, where, note, "a clip that the rule shows as it is", rows=rows)
    for note in info.file_notes:
        yield find("clip_note", where, note, "nothing: this is read as it is", rows=rows)


def _name(rows: Sequence[Row], clip: ClipRef) -> str:
    return f"{name_rows(rows)}: {describe(clip, str(file_of(clip)))}"


def _compare_names(clips: Sequence[ClipRef], rows_of: Mapping[ClipRef, Sequence[Row]]) -> Iterator[Finding]:
    first = file_of(clips[0])
    for clip in clips[1:]:
        got, where = f"the bytes of {first}", _name(rows_of[clip], clip)
        yield find("same_clip_two_names", where, got, "one name for one clip", rows=rows_of[clip])


def _compare_sides(shown: Sequence[tuple[ClipRef, Row]], held_out: Collection[Path]) -> Iterator[Finding]:
    """Tells of one file, under whatever names and with whatever stretches, whether several files have rows about it."""
    by_file: dict[Path, list[Row]] = defaultdict(list)
    whole: dict[Path, ClipRef] = {}
    seen: set[int] = set()
    for clip, row in shown:
        if id(row) not in seen:  # it may show two stretches of the file
            by_file[row.source].append(row)
            whole.setdefault(row.source, whole_of(clip))
            seen.add(id(row))
    first, *others = by_file
    for source in others:
        crosses = (source in held_out) != (first in held_out)
        if held_out and not crosses:
            continue  # files of one side, such as new questions and old ones
        kind = "clip_on_both_sides" if crosses else "clip_in_two_files"
        where = _name(by_file[source], whole[source])
        got = f"the clip of {name_rows(by_file[first])}"
        yield find(kind, where, got, "the rows of one clip in one file", rows=[*by_file[first], *by_file[source]])
