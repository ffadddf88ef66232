"""Nearly right rows of every format, and nearly right clips: each is read, or named, and nothing is lost or hangs."""

import csv
import json
import random
import re
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from cvft.data.check import inspect_clips
from cvft.data.rows import survey_rows
from cvft.data.video.process import ClipInfo
from cvft.data.video.sample import Sampling
from cvft.errors import ClipError
from tests.mutations import mutations

NUM_ROWS = 2_000
NUM_CLIPS = 200
ROWS_PER_FILE = 20
DEMO = Path(__file__).parent.parent / "datasets" / "tiny_shapes" / "clips"

ROWS = {
    "native": {
        **{"id": "7", "query": "Who?", "response": "A dog.", "history": [["What?", "a dog"], ["When?", "now"]]},
        **{"videos": ["a.mp4"], "start": 0, "end": 2.5, "category": "who", "max_frames": 8},
    },
    "messages": {
        "messages": [
            {"role": "user", "content": "<video>Who?"},
            {"role": "assistant", "content": "A dog.", "loss": True},
            {"role": "user", "content": [{"type": "text", "text": "And?"}, {"type": "video", "video": "a.mp4"}]},
            {"role": "assistant", "content": "A cat."},
        ],
        "category": "who",
    },
    "sharegpt": {
        "conversations": [{"from": "human", "value": "<video>Who?"}, {"from": "gpt", "value": "A dog."}] * 2,
        "videos": ["a.mp4"],
        "system": "",
    },
    "alpaca": {
        **{"instruction": "Look.", "input": "Who?", "output": "A dog.", "system": "", "history": [["a", "b"]]},
        "videos": ["a.mp4"],
    },
    "llava": {
        "id": "7",
        "video": "a.mp4",
        "conversations": [{"from": "human", "value": "<image>\nWho?"}, {"from": "gpt", "value": "A dog."}] * 2,
    },
    "video_chatgpt": {"q": "Who?", "a": "A dog.", "video_id": "a"},
    "csv": {"query": "Who?", "response": "A dog.", "videos": "a.mp4", "category": "who"},
    "parquet": {"query": "Who?", "response": "A dog.", "videos": "a.mp4", "category": "who"},
}


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "a.mp4").write_bytes((DEMO / "val_000.mp4").read_bytes())
    return tmp_path


def write(path: Path, kind: str, rows: list[dict]) -> list[int]:
    """Writes rows, and returns the numbers by which messages name them."""
    if kind in ("csv", "parquet"):
        names = list(ROWS[kind])
        cells = [[None if row.get(name) is None else str(row[name]) for name in names] for row in rows]
        if kind == "parquet":
            columns = {name: [line[at] for line in cells] for at, name in enumerate(names)}
            pyarrow.parquet.write_table(pyarrow.table(columns), path)
            return list(range(1, len(rows) + 1))
        lines = []
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(names)
            for line in cells:
                file.flush()
                lines.append(path.read_bytes().count(b"\n") + 1)
                writer.writerow(line)
        return lines
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return list(range(1, len(rows) + 1))


@pytest.mark.parametrize("kind", ROWS)
def test_mutated_rows_are_read_or_named(folder, kind):
    changed = [row for row, _ in mutations(ROWS[kind], count=NUM_ROWS, seed=5)]
    num_read = num_named = 0
    for begin in range(0, len(changed), ROWS_PER_FILE):
        path = folder / f"rows.{kind if kind in ('csv', 'parquet') else 'jsonl'}"
        numbers = write(path, kind, changed[begin : begin + ROWS_PER_FILE])
        rows, problems = survey_rows(path, format=kind)
        read = {row.line for row in rows}
        places = (re.match(rf"{re.escape(str(path))}(?:: item |:)(\d+)", problem.where) for problem in problems)
        named = {int(place[1]) for place in places}  # each is of a row
        text = "".join(map(str, problems))
        assert all(char.isprintable() or char == "\n" for char in text), ascii(text)
        if kind not in (
            "messages",
            "sharegpt",
            "alpaca",
            "llava",
        ):  # of a conversation, one answer may be read and another named
            assert not read & named
        assert read | named == set(numbers)
        num_read, num_named = num_read + len(read), num_named + len(named)
    assert num_read > 5
    assert num_named > 5


def test_mutated_clips_decode_or_are_refused(folder):
    dice = random.Random(3)
    raw = (folder / "a.mp4").read_bytes()
    head = raw.index(b"moov")
    clips = []
    for number in range(NUM_CLIPS):
        changed = bytearray(raw)
        for _ in range(dice.randrange(1, 6)):
            # half of them in what describes the clip, which is a small part of the file
            at = dice.randrange(head, len(raw)) if dice.random() < 0.5 else dice.randrange(len(raw))
            changed[at : at + dice.randrange(5)] = dice.randbytes(dice.randrange(5))
        if dice.random() < 0.2:
            del changed[dice.randrange(len(changed)) :]
        clips.append(folder / f"{number}.mp4")
        clips[-1].write_bytes(changed or b"x")
    found = inspect_clips(clips, sampling=Sampling(), timeout_s=60, num_workers=2).found
    assert list(found) == clips
    assert all(isinstance(each, ClipInfo | ClipError) for each in found.values())
    refused = [each for each in found.values() if isinstance(each, ClipError)]
    assert 0 < len(refused) < len(clips)
    assert not [error for error in refused if "Traceback" in str(error)]
