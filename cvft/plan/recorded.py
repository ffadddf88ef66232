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
from typing import Literal

from cvft.data.fetch.urls import is_url, parse_url
from cvft.data.records import (
    ClipRecord,
    FileFacts,
    clip_namer,
    find_clip,
    find_difference,
    identify_row,
    read_records,
)
from cvft.data.rows import Row, make_rows, read_rows
from cvft.errors import DataError, Problem, RunError
from cvft.files import hash_file
from cvft.jsonl import read_jsonl
from cvft.manifest import read_manifest
from cvft.plan.notes import NUM_EXAMPLES, name_examples
from cvft.plan.url_cache import url_cache_dir
from cvft.recipe import Recipe, load_recipe
from cvft.runs import RunFolder

HINT_MOVED = "were the clips moved? data.video_root=FOLDER finds them below a folder"


@dataclass(frozen=True)
class RecordedRows:
    """Rows of a run, with their clips where they lie today.

    Args:
        rows: The rows whose clip is there, or that have none.
        gone: The rows whose clip is not there.
        clips: What was recorded of each clip, by its place today.
        stored: All rows, with their clips where they were.
    """

    rows: Sequence[Row]
    gone: Sequence[Row]
    clips: Mapping[Path, ClipRecord]
    stored: Sequence[Row]

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
    rows = [row if row.video is None else replace(row, video=where) for row, where in _with_places(stored, found)]
    gone = [row for row, where in _with_places(stored, found) if row.video is not None and where is None]
    lost = {row.line for row in gone}
    return RecordedRows(
        [row for row in rows if row.line not in lost],
        gone,
        {place[0]: records[path] for path, place in found.items() if place is not None and path in records},
        stored,
    )


def refuse_gone(recorded: RecordedRows, run: RunFolder) -> None:
    """Refuses rows whose clips are not there.

    Raises:
        DataError: with their number and some of them.
    """
    if not recorded.gone:
        return
    clips = list(dict.fromkeys(f"`{row.video}`" for row in recorded.gone))
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
        for key, path, before, is_ordered in _files(recipe, stored):
            if not path.is_file():
                notes.append(f"{key}: {path} is not there any more, and was not compared with what this run recorded")
            elif problem := _compare(
                key, path, before, recipe=recipe, run=run, records=records, is_ordered=is_ordered, since=since
            ):
                problems.append(problem)
    if problems:
        raise RunError(f"run folder {run.path}", problems)
    return notes


def _files(recipe: Recipe, stored: Mapping[str, list[Row]]) -> Iterable[tuple[str, Path, list[Row], bool]]:
    """Yields setting, file, its recorded rows and whether they are in its order."""
    if recipe.data.val is not None:
        yield "data.train", recipe.data.train, stored["train"], True
        yield "data.val", recipe.data.val, stored["val"], True
    else:
        yield "data.train", recipe.data.train, [*stored["train"], *stored["val"]], not stored["val"]


def _compare(
    key: str,
    path: Path,
    before: Sequence[Row],
    *,
    recipe: Recipe,
    run: RunFolder,
    records: Mapping[Path, ClipRecord],
    is_ordered: bool,
    since: str,
) -> Problem | None:
    facts = read_manifest(run).sources.get(key)
    earlier = load_recipe(run.recipe_file).recipe.data
    reads_alike = (earlier.video_root, earlier.format) == (recipe.data.video_root, recipe.data.format)
    if facts is not None and reads_alike and FileFacts(**facts).fits(path):
        return None
    name_clip = clip_namer(records)
    set_aside = _quarantined(run)
    rows, now = [], []
    rows_now = read_rows(
        path, video_root=recipe.data.video_root, format=recipe.data.format, url_cache=url_cache_dir(recipe)
    )
    for row in rows_now:
        if row.video is not None and identify_row(row, row.video.name) in set_aside:
            continue
        rows.append(row)
        now.append(identify_row(row, "" if row.video is None else name_clip(row.video)))
    then = [identify_row(row, "" if row.video is None else records[row.video].sha256) for row in before]
    difference = find_difference(rows, now, then, is_ordered=is_ordered)
    if difference is None:
        return None
    hint = "bring them back, or train on the new ones under another name (name=...)"
    if key == "data.val":
        hint += f"; cvft eval {run.path} --data FILE evaluates other rows"
    return Problem(key, "other rows", f"the rows that {since} was trained on: {difference}", hint)


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
    objects, clips = [], {}
    for number, columns in enumerate(read_jsonl(path), 1):
        clip = columns.get("videos")
        if isinstance(clip, list) and len(clip) == 1 and isinstance(clip[0], str):
            clips[number] = Path(clip[0])
            columns = {**columns, "videos": []}
        objects.append((number, columns))
    rows = make_rows(objects, source=path, video_root=path.parent, is_array=False)
    return [replace(row, video=clips.get(row.line)) for row in rows]


def _records_of(run: RunFolder) -> dict[Path, ClipRecord]:
    return read_records(run.clip_records) if run.clip_records.is_file() else {}


def _quarantined(run: RunFolder) -> set[str]:
    """What tells the rows that were set aside, their clips by name: of a clip that does not decode nothing is recorded."""
    path = run.path / "quarantine.jsonl"
    if not path.is_file():
        return set()
    kept = [line["row"] for line in read_jsonl(path)]
    return {
        json.dumps({**row, "videos": [_file_name(*row["videos"])]}, sort_keys=True, ensure_ascii=False) for row in kept
    }


def _file_name(clip: str) -> str:
    return parse_url(clip).file_name if is_url(clip) else Path(clip).name


def _find_clips(
    rows: Iterable[Row], records: Mapping[Path, ClipRecord], *, video_root: Path | None
) -> dict[Path, tuple[Path, bool] | None]:
    """Finds the clips of rows: recorded place -> place today and whether it is the same clip, or None when it is gone."""
    found: dict[Path, tuple[Path, bool] | None] = {}
    for path in dict.fromkeys(row.video for row in rows if row.video is not None):
        record = records.get(path)
        if record is None:
            found[path] = (path, True) if path.is_file() else None
        else:
            found[path] = find_clip(path, record, video_root=video_root)
    return found


def _with_places(
    rows: Iterable[Row], found: Mapping[Path, tuple[Path, bool] | None]
) -> Iterable[tuple[Row, Path | None]]:
    for row in rows:
        place = None if row.video is None else found[row.video]
        yield row, None if place is None else place[0]


def _other_clips(
    rows: Sequence[Row],
    found: Mapping[Path, tuple[Path, bool] | None],
    records: Mapping[Path, ClipRecord],
    *,
    since: str,
) -> list[Problem]:
    """Names the clips that are other ones by now."""
    others = [(path, place[0]) for path, place in found.items() if place is not None and not place[1]]
    problems = []
    for path, place in others[:NUM_EXAMPLES]:
        lines = name_examples(row.location for row in rows if row.video == path)
        got = f"`{place}`, which is another file by now"
        need = f"the clip that {since} has recorded (sha256 {records[path].sha256[:12]}...)"
        hint = "bring it back, or train on the new one under another name (name=...)"
        problems.append(Problem(f"{lines} `videos`", got, need, hint))
    if num_more := len(others) - len(problems):
        problems.append(Problem("clips", f"{num_more} more that are other files by now", "those that were recorded"))
    return problems
