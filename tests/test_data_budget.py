"""Budgets of frames per row and per file: fewer frames, or another rate, than the recipe says of all clips."""

import json
from dataclasses import replace

import pytest

from cvft.cli.main import main
from cvft.data.check import check_clips, inspect_clips
from cvft.data.rows import read_rows
from cvft.data.video.process import DecodeProcess
from cvft.data.video.sample import Sampling
from cvft.data.video.spec import ClipSpec, content_of, from_text, name_of, sampling_for, to_text
from cvft.errors import ClipError, DataError, ValueProblem
from cvft.plan.job import open_job
from cvft.plan.prepare import prepare
from cvft.recipe import load_recipe
from tests.project import make_project, write_jsonl
from tests.real_clips import real_clip

CLIP = str(real_clip("bikes.mp4"))
FPS = Sampling("fps", 16, 1.0, 4)


def row_of(**more):
    return {"query": "q", "response": "r", "videos": [CLIP], **more}


def test_rows_state_budgets_and_are_written_as_they_were_read(tmp_path):
    said = [
        row_of(max_frames=4),
        row_of(max_frames="6", fps="0.5"),
        row_of(fps=2.5, start=1, end=9),
        row_of(max_frames=None),
    ]
    rows = read_rows(write_jsonl(tmp_path / "rows.jsonl", said))
    path = rows[3].videos[0]
    assert [row.videos[0] for row in rows] == [
        ClipSpec(path, max_frames=4),
        ClipSpec(path, max_frames=6, fps=0.5),
        ClipSpec(path, 1.0, 9.0, fps=2.5),
        path,
    ]
    assert [from_text(to_text(row.videos[0])) for row in rows] == [row.videos[0] for row in rows]
    assert name_of(rows[1].videos[0]) == "bikes.mp4 (at most 6 frames, 0.5 per second)"
    again = write_jsonl(tmp_path / "again.jsonl", [row.to_json() for row in rows])
    assert [row.videos[0] for row in read_rows(again)] == [row.videos[0] for row in rows]
    assert len({content_of(row.videos[0], "a" * 64) for row in rows}) == 4


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"max_frames": 0}, "`max_frames`: got the number `0`, need a whole number of frames, 1 or more"),
        ({"max_frames": 2.5}, "`max_frames`: got the number `2.5`, need a whole number of frames, 1 or more"),
        ({"fps": 0}, "`fps`: got the number `0`, need a number of frames per second, more than 0"),
        ({"fps": "fast"}, "`fps`: got the string `fast`, need a number of frames per second, more than 0"),
        ({"videos": [], "fps": 1}, "`fps`: got the number `1`, need a clip of which it says something"),
    ],
)  # fmt: skip
def test_what_is_no_budget_is_refused_with_its_column(tmp_path, said, message):
    with pytest.raises(DataError) as caught:
        read_rows(write_jsonl(tmp_path / "rows.jsonl", [row_of(**said)]))
    assert f"rows.jsonl:1 {message}" in str(caught.value)


def test_clips_are_shown_by_their_budget():
    path = real_clip("bikes.mp4")  # ten seconds
    asked = [
        path,
        ClipSpec(path, max_frames=6),
        ClipSpec(path, fps=0.5),
        ClipSpec(path, fps=1.5),
        ClipSpec(path, max_frames=2),
    ]
    found = inspect_clips(asked, sampling=FPS).found
    assert [found[clip].num_frames for clip in asked] == [10, 6, 4, 14, 2]
    with DecodeProcess() as process:
        clip = process.decode(asked[1], sampling=FPS)
        assert clip.frame_indices == found[asked[1]].frame_indices
        assert [
            process.inspect(replace(asked[1], max_frames=n), sampling=Sampling("chat", 24)).notes for n in (24, 5)
        ] == [
            (),
            ("clip is 10.0 s, `chat` sampling shows its first 5 s",),
        ]


@pytest.mark.parametrize(
    ("budget", "sampling", "message"),
    [
        ({"max_frames": 25}, Sampling("chat", 24), "got `max_frames` 25 of a row, need at most 24, as of all clips"),
        ({"fps": 2.0}, Sampling("chat", 24), "got `fps` 2 of a row, need no `fps`: `chat` sampling has no rate"),
        ({"max_frames": 12}, Sampling("base", 24), "need no `max_frames`: `base` sampling shows 24 of every clip"),
    ],
)
def test_a_budget_that_the_rule_does_not_take_is_refused(tmp_path, budget, sampling, message):
    rows = read_rows(write_jsonl(tmp_path / "rows.jsonl", [row_of(), row_of(**budget)]))
    with pytest.raises(DataError) as caught:
        check_clips(rows, sampling=sampling)
    assert f"rows.jsonl:2 `videos`: {CLIP} (decoder `pyav`): " in str(caught.value)
    assert message in str(caught.value)
    with pytest.raises(ValueProblem):
        sampling_for(rows[1].videos[0], sampling)
    with DecodeProcess() as process, pytest.raises(ClipError):
        process.decode(rows[1].videos[0], sampling=sampling)


def test_the_plan_counts_the_tokens_of_the_budget_and_says_it(tmp_path, capsys):
    write_jsonl(tmp_path / "few.jsonl", [row_of(), row_of(query="p", max_frames=3), {"query": "q", "response": "r"}])
    files = ["train.jsonl", {"path": "few.jsonl", "max_frames": 5}]
    recipe = make_project(tmp_path, rows=[row_of()], val_rows=[row_of()], data={"train": files})
    prepared = prepare(open_job(load_recipe(recipe)))
    shapes = prepared.row_facts.train
    assert [shape.num_frames for shape in shapes] == [(11,), (5,), (3,), ()]
    assert [shape.clips for shape in shapes] == [(0,), (1,), (2,), ()]
    assert [11 * sum(shape.num_clip_tokens) // sum(shapes[0].num_clip_tokens) for shape in shapes] == [11, 5, 3, 0]
    assert shapes[0].num_tokens > shapes[1].num_tokens > shapes[2].num_tokens
    assert [row.to_json().get("max_frames") for row in prepared.train_rows] == [None, 5, 3, None]
    assert "1 rows are shown at most 5 frames by their own budget" in prepared.notes
    assert main(["check", str(recipe), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)["findings"]
    cut = [each["got"] for each in found if each["kind"] == "clip_cut"]
    assert cut == [
        "clip is 10.0 s, `chat` sampling shows its first 5 s",
        "clip is 10.0 s, `chat` sampling shows its first 3 s",
    ]
