"""Writes cleaned copies of checked files: rows left out with their reasons, clips on one side, the files themselves as they were.

CheckUp -> FILE.clean.jsonl (native rows, absolute paths) and FILE.quarantine.jsonl beside each file that has something to mend

No text is changed: a row is kept as it is, left out, or moved to the other file.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cvft.data.connected import connect
from cvft.data.doctor.check import CheckUp
from cvft.data.doctor.findings import KINDS, Finding
from cvft.data.row_objects import BYTE_ORDER_MARK
from cvft.data.rows import Row, write_rows
from cvft.errors import DataError, Problem
from cvft.files import check_output, write_whole
from cvft.jsonl import to_jsonl

_PLACE = re.compile(r"(?::|: item )(\d+)")


@dataclass(frozen=True)
class FixedFile:
    """What was made of one file.

    Args:
        source: The file, which is as it was.
        clean: The cleaned copy.
        num_kept: Rows in it.
        num_moved: Rows among them that stood in another file, whose clip has its rows here.
        quarantine: The list of what was left out; None where nothing was.
        num_left_out: How much of it.
    """

    source: Path
    clean: Path
    num_kept: int
    num_moved: int
    quarantine: Path | None
    num_left_out: int

    def __str__(self) -> str:
        moved = f", {self.num_moved} of them from another file" if self.num_moved else ""
        out = f"; {self.num_left_out} left out: {self.quarantine}" if self.quarantine else ""
        return f"fixed     {self.clean}: {self.num_kept} rows{moved}{out}"


def clean_name(path: Path) -> Path:
    """Returns where the cleaned copy of a file goes."""
    return path.with_name(f"{path.stem}.clean.jsonl")


def quarantine_name(path: Path) -> Path:
    """Returns where the list of what was left out of a file goes."""
    return path.with_name(f"{path.stem}.quarantine.jsonl")


def check_targets(paths: Sequence[Path]) -> None:
    """Refuses files beside which nothing can be written, before work is done.

    Raises:
        CvftError: A file is there already, or two would have one name.
    """
    counts = Counter(map(clean_name, paths))
    twice = [path for path in paths if counts[clean_name(path)] > 1]
    if twice:
        names = " and ".join(f"`{path.name}`" for path in twice)
        problem = Problem(
            "--fix", f"{names}, whose copies would have one name", "files of different names", "rename one"
        )
        raise DataError("command line", [problem])
    for path in paths:
        for target in (clean_name(path), quarantine_name(path)):
            check_output(target, subject="command line", where="--fix")


def fix_files(checked: CheckUp) -> list[FixedFile]:
    """Writes the cleaned copies; files with nothing to mend get none, unless rows are moved between them.

    Args:
        checked: What a check has found.

    Returns:
        What was made of each file that has a copy.

    Raises:
        DataError: A file cannot be read at all, or would have no row left; then nothing is written.
        OSError: A copy cannot be written.
    """
    left_out = _find_left_out(checked)
    kept = [row for row in checked.rows if id(row) not in left_out]
    target = _choose_sides(checked, kept)
    broken, unread = _find_unread(checked)
    by_file: dict[Path, list[Row]] = {file.path: [] for file in checked.files}
    for is_moved in (False, True):  # rows that were moved stand behind the others
        for row in kept:
            place = target.get(id(row), row.source)
            if (place != row.source) == is_moved:
                by_file[place].append(row)
    problems = [*broken]
    for path, rows in by_file.items():
        if not rows and not any(problem.where == str(path) for problem in broken):
            problems.append(Problem(str(path), "no row that could be kept", "at least one", "see the findings"))
    if problems:
        raise DataError("--fix", problems)
    fixed = []
    for path, rows in by_file.items():
        out = [(finding, row) for row in checked.rows if row.source == path and (finding := left_out.get(id(row)))]
        lines = [_describe(finding, path, row.line, row) for finding, row in out] + unread[path]
        num_moved = sum(row.source != path for row in rows)
        num_before = sum(row.source == path for row in checked.rows)
        if not lines and not num_moved and len(rows) == num_before:
            continue
        write_rows(rows, clean_name(path))
        if lines:
            lines.sort(key=lambda line: int(line["line"]))
            write_whole(quarantine_name(path), to_jsonl(lines))
        fixed.append(
            FixedFile(
                path, clean_name(path), len(rows), num_moved, quarantine_name(path) if lines else None, len(lines)
            )
        )
    return fixed


def _find_left_out(checked: CheckUp) -> Mapping[int, Finding]:
    """Returns the first finding by which each row is left out: `id` of the row -> finding."""
    found: dict[int, Finding] = {}
    for finding in checked.findings:
        if KINDS[finding.kind].fix == "left out":
            for row in finding.rows:
                found.setdefault(id(row), finding)
    return found


def _find_unread(checked: CheckUp) -> tuple[list[Problem], Mapping[Path, list[dict[str, Any]]]]:
    """Returns the problems of whole files, and by file what is to be said of lines that are no rows."""
    broken: list[Problem] = []
    unread: dict[Path, list[dict[str, Any]]] = defaultdict(list)
    for finding in checked.findings:
        problem = finding.problem
        if finding.kind != "row_refused" or finding.rows or problem.got == BYTE_ORDER_MARK:
            continue
        path = max(
            (file.path for file in checked.files if problem.where.startswith(str(file.path))),
            key=lambda path: len(str(path)),
        )
        place = _PLACE.match(problem.where.removeprefix(str(path)))
        if place is None:
            broken.append(problem)
        else:
            unread[path].append(_describe(finding, path, int(place[1]), None))
    return broken, unread


def _describe(finding: Finding, path: Path, line: int, row: Row | None) -> dict[str, Any]:
    problem = finding.problem
    reason = f"{finding.kind}: {problem.where}: got {problem.got}, need {problem.need}"
    return {"reason": reason, "source": str(path), "line": line, "row": None if row is None else row.to_json()}


def _choose_sides(checked: CheckUp, rows: Sequence[Row]) -> Mapping[int, Path]:
    """Returns where rows go whose clip has rows on both sides: `id` of the row -> file.

    All rows of such a clip, under whatever names it has, go to the side that has more of them, and to training where both have as
    many. Where that would leave no row to hold out, the clips with the fewest rows go there until it has some.
    """
    held_out = next((file.path for file in checked.files if file.is_held_out), None)
    train = next((file.path for file in checked.files if not file.is_held_out), None)
    if held_out is None or train is None:
        return {}
    name = _name_groups(checked)
    groups: dict[str, list[Row]] = defaultdict(list)
    sides: dict[str, set[bool]] = defaultdict(set)
    kept = {id(row) for row in rows}
    for row in checked.rows:
        if shown := _contents_of(row, checked):
            group_name = name[shown[0]]
            sides[group_name].add(row.source == held_out)  # rows that are left out count: they may be all of one side
            groups[group_name] += [row] if id(row) in kept else []
    leaked = [group for group_name, group in groups.items() if group and len(sides[group_name]) == 2]
    target: dict[int, Path] = {}
    for group in leaked:
        num_held_out = sum(row.source == held_out for row in group)
        side = held_out if 2 * num_held_out > len(group) else train
        target |= {id(row): side for row in group}
    is_empty = all(target.get(id(row), row.source) != held_out for row in rows)
    if is_empty and leaked:
        target |= {id(row): held_out for row in min(leaked, key=len)}
    return target


def _name_groups(checked: CheckUp) -> Mapping[str, str]:
    """Returns the name of the group of each clip, by the hashes of their bytes: clips of one row, and those that look alike."""
    alike = (
        [sha256 for row in finding.rows for sha256 in _contents_of(row, checked)]
        for finding in checked.findings
        if KINDS[finding.kind].fix == "one side"
    )
    return connect(itertools.chain((_contents_of(row, checked) for row in checked.rows), alike))


def _contents_of(row: Row, checked: CheckUp) -> list[str]:
    """Returns the hashes of the bytes of a row's clips that decode."""
    return [checked.clips[clip].sha256 for clip in row.videos if clip in checked.clips]
