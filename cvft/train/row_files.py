"""The row files of a run: as rows for cvft, as messages for ms-swift, and what is known of clips and lengths."""

from __future__ import annotations

from dataclasses import replace

from cvft.data.records import ClipRecord, write_records
from cvft.data.rows import Row, write_rows
from cvft.data.video.spec import to_text
from cvft.files import write_whole
from cvft.jsonl import to_jsonl
from cvft.plan.prepare import PreparedRows
from cvft.runs import RunFolder


def write_row_files(prepared: PreparedRows, folder: RunFolder) -> None:
    """Writes the rows of a run, for cvft as rows and for ms-swift as messages; each file whole or not at all."""
    (folder.data / "swift").mkdir(parents=True, exist_ok=True)
    for path, rows in ((folder.train_rows, prepared.train_rows), (folder.val_rows, prepared.val_rows)):
        if rows:
            # by their places: a run has the clips that it trained on, whatever their URLs give by now
            write_rows([replace(row, urls=()) for row in rows], path)
            write_whole(folder.data / "swift" / path.name, to_jsonl(map(_as_messages, rows)))
    records = {clip: ClipRecord(facts.sha256, facts.view).seen_at(clip) for clip, facts in prepared.clips.items()}
    write_whole(folder.clip_records, write_records(records))
    write_whole(folder.row_shapes, prepared.row_facts.to_json())


def _as_messages(row: Row) -> dict[str, object]:
    turns = [*row.history, (row.query, row.response)]
    messages = [
        {"role": role, "content": text}
        for turn in turns
        for role, text in zip(("user", "assistant"), turn, strict=True)
    ]
    if row.system is not None:
        messages.insert(0, {"role": "system", "content": row.system})
    return {"messages": messages, "videos": [to_text(clip) for clip in row.videos]}
