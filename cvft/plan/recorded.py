"""Rows and clips of a run as its training recorded them: found again, and proved to be the same. No torch.

RUN/data/*.jsonl, RUN/data/clips.json, RUN/manifest.json + the files of today -> rows, or what has changed

What a run says of itself is about the rows and clips that it recorded. Whoever asks it again after a file was edited or a clip
replaced would get old numbers, or numbers of other clips: that is refused, and what changed is reported.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from cvft.data.clip_columns import NamesAsWritten
from cvft.data.fetch.urls import is_url, parse_url
from cvft.data.records import (
    ClipRecord,
    FileFacts,
    Files,
    are_there,
    clip_namer,
    find_difference,
    find_files,
    identify_row,
    read_records,
)
from cvft.data.rows import Row, make_rows
from cvft.data.video.process import ClipInfo
from cvft.data.video.spec import ClipRef, file_of, files_of, in_files
from cvft.errors import DataError, Problem, RunError
from cvft.files import hash_file
from cvft.jsonl import read_jsonl
from cvft.manifest import read_manifest
from cvft.plan.notes import NUM_EXAMPLES, name_examples
from cvft.plan.prepare import read_sources
from cvft.recipe import Recipe, load_recipe
from cvft.recipe.data_section import VAL_KEY, RowFile, is_val
from cvft.runs import RunFolder

HINT_MOVED = "were the clips moved? data.video_root=FOLDER finds them below a folder"


@dataclass(frozen=True)
class RecordedRows:
    """Rows of a run, with their clips where they lie today.

    Args:
        rows: The rows whose clips are there, or that have none.
        gone: The rows of which a clip is not there.
        clips: What was recorded of each clip, by its place today.
        stored: All rows, with their clips where they were.
        lost: The clips that are not there, where they were.
    """

    rows: Sequence[Row]
    gone: Sequence[Row]
    clips: Mapping[ClipRef, ClipRecord]
    stored: Sequence[Row]
    lost: Sequence[ClipRef] = ()

    @property
    def all_rows(self) -> list[Row]:
        """All rows in their order; some clips may be gone."""
        return sorted([*self.rows, *self.gone], key=lambda row: row.line)


def read_recorded(run: RunFolder, which: Literal["train", "val"], *, recipe: Recipe) -> RecordedRows:
    """Reads the rows that a run trained on or held out, and proves their clips.

    Args:
        run: The run.
        which: Which rows.
        recipe: Its recipe: `data.video_root` says where clips lie that were moved.

    Returns:
        The rows.

    Raises:
        DataError: when a clip is another one than the run recorded.
    """
    path = run.train_rows if which == "train" else run.val_rows
    _refuse_edited(run, which, path)
    stored, records = read_stored(path), _records_of(run)
    found = _find_clips(stored, records, video_root=recipe.data.video_root)
    if problems := _other_clips(stored, found, records, since=f"the run {run.path.name}"):
        raise DataError(f"the clips of run {run.path}", problems)
    places = {clip: _place_of(clip, found) for row in stored for clip in row.videos}
    rows, gone = [], []
    for row in stored:
        here = tuple(place for clip in row.videos if (place := places[clip]) is not None)
        if len(here) == len(row.videos):
            rows.append(replace(row, videos=here))
        else:
            gone.append(row)
    clips = {place: records[clip] for clip, place in places.items() if clip in records and place is not None}
    lost = [clip for clip, place in places.items() if place is None]
    return RecordedRows(rows, gone, clips, stored, lost)


def refuse_gone(recorded: RecordedRows, run: RunFolder) -> None:
    """Refuses rows whose clips are not there.

    Raises:
        DataError: with their number and some of them.
    """
    if not recorded.gone:
        return
    clips = list(dict.fromkeys(f"`{file_of(clip)}`" for clip in recorded.lost))
    where = f"{name_examples(row.location for row in recorded.gone)} `videos`"
    got = f"{name_examples(clips)}, which {'does' if len(clips) == 1 else 'do'} not exist"
    raise DataError(f"the clips of run {run.path}", [Problem(where, got, "the clips of the run's rows", HINT_MOVED)])


def refuse_other_data(run: RunFolder, *, recipe: Recipe, since: str) -> list[str]:
    """Refuses a recipe whose row files or clips are other ones than those that a run has recorded.

    Args:
        run: The run, trained or with a checkpoint.
        recipe: The recipe that is to be carried on.
        since: What was made of the recorded rows, for messages: `checkpoint-20`, `this run`.

    Returns:
        Sentences on what could not be compared.

    Raises:
        RunError: with what has changed.
    """
    if not run.train_rows.is_file() or not run.clip_records.is_file():
        return []
    records = _records_of(run)
    stored = {"train": read_stored(run.train_rows)}
    stored["val"] = read_stored(run.val_rows) if run.val_rows.is_file() else []
    rows = [row for each in stored.values() for row in each]
    found = _find_clips(rows, records, video_root=recipe.data.video_root)
    problems = _other_clips(rows, found, records, since=since)
    notes: list[str] = []
    if not problems:
        for key, files, before, is_ordered in _files(recipe, stored):
            gone = [file.path for file in files.values() if not file.path.is_file()]
            if gone:
                paths, verb = name_examples(map(str, gone)), "is" if len(gone) == 1 else "are"
                notes.append(
                    f"{key}: {paths} {verb} not there any more, and was not compared with what this run recorded"
                )
            elif problem := _compare(
                key, files, before, recipe=recipe, run=run, records=records, is_ordered=is_ordered, since=since
            ):
                problems.append(problem)
    if problems:
        raise RunError(f"run folder {run.path}", problems)
    return notes


def refuse_other_order(run: RunFolder, rows: Sequence[Row], clips: Mapping[ClipRef, ClipInfo], *, since: str) -> None:
    """Refuses to go on where other rows would train, or in another order: split by another version, or of files in another order.

    Args:
        run: The run, with a checkpoint.
        rows: The rows that would train now.
        clips: Facts of their clips.
        since: The checkpoint, for messages.

    Raises:
        RunError: when they are not those that were recorded, in their order.
    """
    if not run.train_rows.is_file() or not run.clip_records.is_file():
        return
    records = _records_of(run)
    now = [identify_row(row, [clips[clip].sha256 for clip in row.videos]) for row in rows]
    then = [identify_row(row, _hashes(row, records)) for row in read_stored(run.train_rows)]
    difference = find_difference(rows, now, then, is_ordered=True)
    if difference is not None:
        got, need = (
            "train rows in another order, or others of them held out",
            f"those that {since} was trained on: {difference}",
        )
        hint = "name the files in their old order; or train with this version under another name (name=...)"
        raise RunError(f"run folder {run.path}", [Problem("data.train", got, need, hint)])


def _files(
    recipe: Recipe, stored: Mapping[str, list[Row]]
) -> Iterable[tuple[str, dict[str, RowFile], list[Row], bool]]:
    """Yields setting, its files, their recorded rows and whether they are in the order of the files."""
    files = recipe.data.sources
    val = {key: files.pop(key) for key in list(files) if is_val(key)}
    if val:
        yield "data.train", files, stored["train"], True
        yield VAL_KEY, val, stored["val"], True
    else:
        yield "data.train", files, [*stored["train"], *stored["val"]], not stored["val"]


def _compare(
    key: str,
    files: Mapping[str, RowFile],
    before: Sequence[Row],
    *,
    recipe: Recipe,
    run: RunFolder,
    records: Mapping[ClipRef, ClipRecord],
    is_ordered: bool,
    since: str,
) -> Problem | None:
    recorded, earlier = read_manifest(run).sources, load_recipe(run.recipe_file).recipe.data.sources
    if all(_is_recorded(recorded.get(name), file, earlier.get(name)) for name, file in files.items()):
        return None
    name_files = clip_namer(records)
    set_aside = _quarantined(run)
    rows, now = [], []
    read = read_sources(files, recipe=recipe)
    for row in (row for of_file in read.values() for row in of_file):
        if row.videos and identify_row(row, [file_of(clip).name for clip in row.videos]) in set_aside:
            continue
        rows.append(row)
        now.append(identify_row(row, [name_files(files_of(clip)) for clip in row.videos]))
    then = [identify_row(row, _hashes(row, records)) for row in before]
    difference = find_difference(rows, now, then, is_ordered=is_ordered)
    if difference is None:
        return None
    hint = "bring them back, or train on the new ones under another name (name=...)"
    if key == VAL_KEY:
        hint += f"; cvft eval {run.path} --data FILE evaluates other rows"
    return Problem(key, "other rows", f"the rows that {since} was trained on: {difference}", hint)


def _hashes(row: Row, records: Mapping[ClipRef, ClipRecord]) -> list[str]:
    return [records[clip].sha256 for clip in row.videos]


def _is_recorded(facts: Mapping[str, Any] | None, file: RowFile, earlier: RowFile | None) -> bool:
    """Tells whether a file is the one that a run has recorded, and read as it was then."""
    if facts is None or earlier is None or file.model_copy(update={"path": earlier.path}) != earlier:
        return False
    return FileFacts(**facts).fits(file.path)


def _refuse_edited(run: RunFolder, which: str, path: Path) -> None:
    """Refuses a row file of the run itself that is not as the training wrote it."""
    rows = read_manifest(run).rows
    if not path.is_file():
        need, hint = "the file that the training wrote", "bring it back from a copy of the folder"
        raise RunError(f"run folder {run.path}", [Problem(f"data/{path.name}", "no such file", need, hint)])
    if hash_file(path) != (rows.train_sha256 if which == "train" else rows.val_sha256):
        need, hint = "the file that the training wrote", f"cvft eval {run.path} --data FILE evaluates other rows"
        raise RunError(f"run folder {run.path}", [Problem(f"data/{path.name}", "another content by now", need, hint)])


def read_stored(path: Path) -> list[Row]:
    """Reads a row file of a run; its clips may have gone."""
    objects = list(enumerate(read_jsonl(path), 1))
    return make_rows(objects, source=path, video_root=path.parent, is_array=False, finder=NamesAsWritten())


def _records_of(run: RunFolder) -> dict[ClipRef, ClipRecord]:
    return read_records(run.clip_records) if run.clip_records.is_file() else {}


def _quarantined(run: RunFolder) -> set[str]:
    """What tells the rows that were set aside, their clips by name: of a clip that does not decode nothing is recorded."""
    path = run.path / "quarantine.jsonl"
    if not path.is_file():
        return set()
    kept = [line["row"] for line in read_jsonl(path)]
    named = ((row, "images" if "images" in row else "videos") for row in kept)
    return {
        json.dumps({**row, column: list(map(_file_name, row[column]))}, sort_keys=True, ensure_ascii=False)
        for row, column in named
    }


def _file_name(clip: str | list[str]) -> str:
    """Returns the name of a clip's file in a column that cvft has written: a path, or a list of ready frames."""
    name = clip if isinstance(clip, str) else clip[0]
    return parse_url(name).file_name if is_url(name) else Path(name).name


def _find_clips(
    rows: Iterable[Row], records: Mapping[ClipRef, ClipRecord], *, video_root: Path | None
) -> dict[Files, tuple[Files, bool] | None]:
    """Finds the files of rows' clips: recorded place -> place today and whether it is the same file, or None when it is gone."""
    found: dict[Files, tuple[Files, bool] | None] = {}
    of_files = {files_of(clip): record for clip, record in records.items()}
    for files in dict.fromkeys(files_of(clip) for row in rows for clip in row.videos):
        record = of_files.get(files)
        if record is None:
            found[files] = (files, True) if are_there(files) else None
        else:
            found[files] = find_files(files, record, video_root=video_root)
    return found


def _place_of(clip: ClipRef, found: Mapping[Files, tuple[Files, bool] | None]) -> ClipRef | None:
    """Returns a clip where it lies today; None when it is gone."""
    place = found[files_of(clip)]
    return None if place is None else in_files(clip, place[0])


def _other_clips(
    rows: Sequence[Row],
    found: Mapping[Files, tuple[Files, bool] | None],
    records: Mapping[ClipRef, ClipRecord],
    *,
    since: str,
) -> list[Problem]:
    """Names the files of clips that are other ones by now."""
    hashes = {files_of(clip): record.sha256 for clip, record in records.items()}
    others = [(files, place[0]) for files, place in found.items() if place is not None and not place[1]]
    problems = []
    for files, place in others[:NUM_EXAMPLES]:
        lines = name_examples(row.location for row in rows if files in map(files_of, row.videos))
        got = f"`{place[0]}`, which is another file by now"
        got = (
            got
            if len(place) == 1
            else f"`{place[0]}` and {len(place) - 1} more frames, of which some are other files by now"
        )
        need = f"the clip that {since} has recorded (sha256 {hashes[files][:12]}...)"
        hint = "bring it back, or train on the new one under another name (name=...)"
        problems.append(Problem(f"{lines} `videos`", got, need, hint))
    if num_more := len(others) - len(problems):
        problems.append(Problem("clips", f"{num_more} more that are other files by now", "those that were recorded"))
    return problems
