"""The row files of a run: as rows for cvft, as messages for ms-swift, and what is known of clips and lengths."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cvft.data.records import ClipRecord, write_records
from cvft.data.rows import Row, read_rows, write_rows
from cvft.errors import DataError, Problem, quote
from cvft.files import write_whole
from cvft.jsonl import to_jsonl
from cvft.plan.prepare import PreparedRows
from cvft.runs import RunFolder


def write_row_files(prepared: PreparedRows, folder: RunFolder) -> None:
    """Writes the rows of a run, for cvft as rows and for ms-swift as messages; each file whole or not at all.

    Args:
        prepared: Rows, clips and lengths.
        folder: The run.

    Raises:
        DataError: when a row does not read back as it was, which evaluation would find out after all the work.
    """
    (folder.data / "swift").mkdir(parents=True, exist_ok=True)
    for path, rows in ((folder.train_rows, prepared.train_rows), (folder.val_rows, prepared.val_rows)):
        if rows:
            write_rows(rows, path)
            _check_written(rows, path)
            write_whole(folder.data / "swift" / path.name, to_jsonl(map(_as_messages, rows)))
    records = {
        path: ClipRecord(facts.sha256, facts.timestamps_s).seen_at(path) for path, facts in prepared.clips.items()
    }
    write_whole(folder.clip_records, write_records(records))
    if prepared.proven is not None:
        write_whole(folder.proven_clips, prepared.proven.to_json())
    write_whole(folder.row_shapes, prepared.row_facts.to_json())


def _check_written(rows: Sequence[Row], path: Path) -> None:
    pairs = zip(rows, read_rows(path), strict=True)
    problems = [
        Problem(
            row.location,
            f"a row that reads as {quote(again.to_json())} when it is written",
            "a row that stays as it is",
        )
        for row, again in pairs
        if row.to_json() != again.to_json()
    ]
    if problems:
        raise DataError("the rows", problems)


def _as_messages(row: Row) -> dict[str, object]:
    turns = [*row.history, (row.query, row.response)]
    messages = [
        {"role": role, "content": text}
        for turn in turns
        for role, text in zip(("user", "assistant"), turn, strict=True)
    ]
    return {"messages": messages, "videos": [] if row.video is None else [str(row.video)]}
