"""Notes before training: one per kind of thing, with a count and three examples, and no false alarms."""

import dataclasses
from pathlib import Path

import numpy as np

from cvft.data.rows import make_rows
from cvft.data.video.process import ClipInfo
from cvft.data.video.sample import Sampling, choose_frames, coverage
from cvft.plan.notes import note_plan, note_rows
from tests.test_plan import SHARED, plan_of

CHAT, UNIFORM = Sampling("chat"), Sampling("uniform")


def clip_of(path: Path, duration_s: float, sampling: Sampling, *, also: tuple[str, ...] = ()) -> ClipInfo:
    num_frames = round(duration_s * 10)
    chosen = choose_frames(np.arange(num_frames, dtype=np.float32) / 10, avg_fps=10, sampling=sampling)
    seen = coverage(chosen, num_frames_total=num_frames, avg_fps=10, duration_s=duration_s, sampling=sampling)
    return ClipInfo(
        num_frames=24,
        height_px=96,
        width_px=160,
        timestamps_s=(0.0,),
        num_frames_total=num_frames,
        avg_fps=10,
        duration_s=duration_s,
        decoder="pyav",
        sha256=path.name,
        notes=(*seen.notes, *also),
    )


def notes_of(folder: Path, answers: list[str], seconds: list[float], *, sampling: Sampling = CHAT, **of_clip):
    """Notes on a clip per answer, of so many seconds."""
    paths = [folder / f"{number}.mp4" for number in range(len(answers))]
    for path in paths:
        path.write_bytes(b"a clip")
    columns = [{"query": "q", "response": a, "videos": [str(p)]} for a, p in zip(answers, paths, strict=True)]
    rows = make_rows(list(enumerate(columns, 1)), source=folder / "rows.jsonl", video_root=folder)
    clips = {
        row.videos[0]: clip_of(row.videos[0], s, sampling, **of_clip) for row, s in zip(rows, seconds, strict=True)
    }
    return note_rows(rows, [], clips, sampling=sampling)


def test_all_long_clips_are_one_note_with_the_answers_that_lie_beyond(tmp_path):
    answers = ["at second 3", "from 20 s to 30 s", "at 0:50", "a man", "at second 99", "for 40 seconds"]
    assert notes_of(tmp_path, answers, [60, 60, 70, 80, 60, 50]) == [
        "6 of 6 clips are longer than the 24 s that `chat` sampling shows (3.mp4 80.0 s, 2.mp4 70.0 s, 0.mp4 60.0 s and 3 "
        "more); of 3 answers about them that name a second, 2 (67%) name one beyond it; video.sampling=uniform shows whole "
        "clips, at wider steps"
    ]


def test_short_clips_and_the_rule_that_shows_all_make_no_note(tmp_path):
    assert notes_of(tmp_path, ["at second 3"] * 2, [10, 24]) == []
    assert notes_of(tmp_path, ["at second 50"] * 2, [60, 600], sampling=UNIFORM) == []
    assert "of 2 answers" not in notes_of(tmp_path, ["a man"] * 2, [60, 60])[0]


def test_notes_that_differ_in_numbers_alone_are_one(tmp_path):
    (note,) = notes_of(tmp_path, ["a"] * 5, [5] * 5, also=("clip has 7 frames without a time",))
    assert note == "clip has 7 frames without a time (5 clips alike: 0.mp4, 1.mp4, 2.mp4 and 2 more)"
    assert notes_of(tmp_path, ["a"], [5], also=("it is odd",)) == ["0.mp4: it is odd"]
    short = notes_of(tmp_path, ["a", "b"], [1, 1.5], sampling=Sampling("base"))
    assert len(short) == 1
    assert "2 clips alike: 0.mp4, 1.mp4" in short[0]


def test_many_columns_are_one_note(tmp_path):
    columns = {"query": "q", "response": "r", **{f"c{number}": number for number in range(9)}}
    rows = make_rows([(1, columns), (2, columns)], source=tmp_path / "rows.jsonl", video_root=tmp_path)
    assert note_rows(rows, [], {}, sampling=CHAT) == [
        "9 columns are kept but not trained on: `c0` (2 rows), `c1` (2 rows), `c2` (2 rows) and 6 more"
    ]


def test_so_few_updates_that_nothing_is_learnt_are_told():
    (note,) = note_plan(plan_of(train={"max_steps": 6}))
    assert note.startswith("6 steps at a peak learning rate of 0.0001 will teach next to nothing")
    assert "at most about 0.6%" in note
    assert note_plan(plan_of(train={"max_steps": 6}, optim={"schedule": "constant", "learning_rate": 1e-3})) == []
    assert note_plan(plan_of(train={"max_steps": 6}, lora={"rank": 64, "alpha": 32, "rslora": True})) == []
    assert note_plan(plan_of(rows=SHARED, train={"epochs": 3})) == []  # the defaults over 100 rows
    assert len(note_plan(plan_of(train={"max_steps": 9}, optim={"learning_rate": 1e-5}))) == 1


def test_a_plan_says_how_often_it_saves_and_measures():
    from cvft.plan.describe import count_measures, count_saves

    few = dataclasses.replace(SHARED, train=SHARED.train[:23], val=SHARED.train[:4])
    swift = plan_of(rows=few, train={"epochs": 75}).swift
    assert (swift["max_steps"], swift["save_steps"], swift["eval_steps"]) == (150, 10, 10)
    plan = plan_of(rows=few, train={"epochs": 75, "save_steps": 1, "eval_steps": 40})
    assert (count_saves(plan), count_measures(plan)) == (150, 4)  # the last step is measured too
    assert count_measures(plan_of(rows=SHARED)) == 0
    many = plan_of(rows=SHARED, train={"global_batch_rows": 7, "epochs": 5}).swift
    assert (many["save_steps"], many["max_steps"]) == (15, 75)  # epochs that are long enough end with one
