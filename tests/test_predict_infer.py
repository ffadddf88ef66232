"""Many clips at once: a folder of them, whatever they are called, shares of it, and the forms of the answers."""

import csv
import io
import json
import shutil
from pathlib import Path

import pytest

import cvft
from cvft.data.clip_folder import find_clips
from cvft.data.rows import make_rows, read_rows
from cvft.data.shares import Share, take_share
from cvft.errors import CvftError, DataError, IncompleteError
from cvft.families.answering import Answer
from cvft.predict.infer import bad_file, infer_file, infer_folder, infer_one
from cvft.predict.outputs import write_answers
from tests.project import write_jsonl
from tests.real_clips import real_clip

CLIPS = Path(__file__).parent.parent / "datasets" / "tiny_shapes" / "clips"
QUERY = "What is shown?"


@pytest.fixture
def folder(tmp_path) -> Path:
    """Clips in folders under odd names, and what is none."""
    folder = tmp_path / "clips"
    (folder / "b" / "deep").mkdir(parents=True)
    shutil.copy2(CLIPS / "val_000.mp4", folder / "z.mp4")
    shutil.copy2(CLIPS / "val_001.mp4", folder / "b" / "no ending")
    shutil.copy2(CLIPS / "val_002.mp4", folder / "b" / "deep" / "红.bin")
    shutil.copy2(real_clip("bikes.mp4"), folder / "a.MP4")
    (folder / "b" / "link.mp4").symlink_to(folder / "z.mp4")
    (folder / "notes.txt").write_text("no clip")
    (folder / "b" / "table.json").write_text("{}")
    (folder / ".hidden.mp4").write_bytes((CLIPS / "val_000.mp4").read_bytes())
    (folder / "b" / "round").symlink_to(folder)  # not followed: it has no end
    return folder


NAMES = ["a.MP4", "b/deep/红.bin", "b/link.mp4", "b/no ending", "z.mp4"]


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_folder_of_clips_is_answered_in_the_order_of_its_names(folder, tmp_path):
    output = tmp_path / "out.jsonl"
    assert infer_folder("tiny", folder=folder, query=QUERY, output=output) == f"5 rows answered in {output}"
    lines = lines_of(output)
    assert [line["id"] for line in lines] == NAMES
    model = cvft.load("tiny")
    assert [line["prediction"] for line in lines] == [model.ask(folder / name, QUERY) for name in NAMES]
    model.close()
    assert [row.id for row in read_rows(output, require_response=False)] == NAMES


def test_a_stretch_is_asked_about_as_by_a_row():
    row = {"query": QUERY, "videos": [str(CLIPS / "val_000.mp4")], "start": 0.5, "end": 2}
    with cvft.load("tiny") as model:
        expected, whole = model.answer([row, {**row, "start": None, "end": None}])
    assert infer_one("tiny", video=CLIPS / "val_000.mp4", query=QUERY, stretch=(0.5, 2)) == expected != whole
    with pytest.raises(DataError, match=r"`end`: got .*, need more than `start`"):
        infer_one("tiny", video=CLIPS / "val_000.mp4", query=QUERY, stretch=(2, 1))
    with pytest.raises(DataError, match=r"`start`: got .*, need a clip of which it says something"):
        infer_one("tiny", video=None, query=QUERY, stretch=(2, None))


def test_a_clip_that_cannot_be_shown_is_listed_and_never_an_empty_answer(folder, tmp_path):
    output = tmp_path / "out.csv"
    (folder / "b" / "bad.mp4").write_bytes(b"\0" * 5000)
    (folder / "empty.mkv").write_bytes(b"")
    with pytest.raises(IncompleteError, match="5 of 7 rows answered"):
        infer_folder("tiny", folder=folder, query='say "it",\nthen', output=output, form="csv")
    with open(output, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == NAMES
    assert {row["query"] for row in rows} == {'say "it",\nthen'}
    assert all(row["prediction"] for row in rows)
    assert [line["row"]["id"] for line in lines_of(bad_file(output))] == ["b/bad.mp4", "empty.mkv"]


def test_shares_are_all_rows_once_and_each_clip_in_one(folder, tmp_path):
    rows = make_rows(
        [(number, {"query": f"{number}?", "videos": [str(CLIPS / f"val_00{clip}.mp4")] if clip else []})
         for number, clip in enumerate([1, 2, 1, 0, 3, 2, 0, 4, 5], 1)],
        source=Path("rows"), video_root=Path.cwd(), require_response=False,
    )  # fmt: skip
    shares = [take_share(rows, Share(number, 3)) for number in range(3)]
    assert sorted(row.line for share in shares for row in share) == list(range(1, 10))
    assert all([row.line for row in share] == sorted(row.line for row in share) for share in shares)
    shown = [{row.videos[0] for row in share if row.videos} for share in shares]
    assert sum(map(len, shown)) == len(set.union(*shown))
    assert take_share(rows, None) == rows
    outputs = [tmp_path / f"{number}.jsonl" for number in range(7)]
    said = [
        infer_folder("tiny", folder=folder, query=QUERY, output=output, shard=Share(number, 7))
        for number, output in enumerate(outputs)
    ]
    whole = [line["id"] for output in outputs for line in lines_of(output)]
    assert sorted(whole) == NAMES
    assert said[6] == f"no rows in this share; {outputs[6]} is empty"


def test_times_of_one_clip_as_subtitles(tmp_path, caplog):
    caplog.set_level("INFO")
    clip = str(CLIPS / "val_000.mp4")
    asked = ["At what second does the white square disappear?", "At what second does the white square appear?"]
    data = write_jsonl(
        tmp_path / "rows.jsonl",
        [{"query": query, "videos": [clip]} for query in [*asked, "What colour is the triangle?"]],
    )
    output = tmp_path / "out.srt"
    infer_file("tiny", data=data, output=output, form="srt")
    model = cvft.load("tiny")
    last, first = (model.ask(clip, query) for query in asked)
    model.close()
    assert output.read_text() == (
        f"1\n00:00:0{first},000 --> 00:00:0{int(first) + 1},000\n{asked[1]} {first}\n\n"
        f"2\n00:00:0{last},000 --> 00:00:0{int(last) + 1},000\n{asked[0]} {last}\n"
    )
    assert "2 of 3 answers name a time" in caplog.text
    with open(data, "a") as file:
        file.write(json.dumps({"query": "?", "videos": [str(CLIPS / "val_001.mp4")]}) + "\n")
    with pytest.raises(CvftError, match="--format srt: got rows about 2 clips, need rows about one clip"):
        infer_file("tiny", data=data, output=tmp_path / "other.srt", form="srt")
    assert not list(tmp_path.glob("other*"))


def test_stretches_are_told_apart_in_a_table_and_their_subtitles_play_along_the_file(tmp_path):
    clip = CLIPS / "val_000.mp4"
    columns = {"query": "When?", "videos": [str(clip)]}
    stretches = [{"start": 2, "end": 4}, {"start": 4}, {}]
    rows = make_rows(
        [(number, {**columns, **stretch}) for number, stretch in enumerate(stretches, 1)],
        source=Path("rows"),
        video_root=Path.cwd(),
        require_response=False,
    )
    answers = {number: Answer("1", is_cut=False) for number in range(3)}
    table = list(csv.DictReader(io.StringIO(write_answers(rows, answers, "csv"))))
    assert [line["video"] for line in table] == [f"{clip} (2 to 4 s)", f"{clip} (from 4 s)", str(clip)]
    spans = [write_answers([row], {0: answers[0]}, "srt").splitlines()[1] for row in rows]
    assert spans == [
        "00:00:03,000 --> 00:00:04,000",
        "00:00:05,000 --> 00:00:06,000",
        "00:00:01,000 --> 00:00:02,000",
    ]


def test_a_folder_without_clips(tmp_path):
    (tmp_path / "notes.txt").write_text("no clip")
    assert find_clips(tmp_path) == ([], 1)
    for folder, got in ((tmp_path, "no clip, and 1 other files"), (tmp_path / "x", "no such folder")):
        with pytest.raises(DataError, match=got):
            infer_folder("tiny", folder=folder, query=QUERY, output=tmp_path / "out.jsonl")
    with pytest.raises(DataError, match="need at most 0"):
        infer_folder("tiny", folder=CLIPS, query="<video> what?", output=tmp_path / "out.jsonl")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt"]
