"""A whole job on rows that hold whatever JSON can: nothing ends the work late, and all of it comes through to the letter."""

import json
import re
import shutil

from PIL import Image

from cvft.data.features.shard import read_entries
from cvft.data.records import read_records
from cvft.data.rows import category_of, read_rows
from cvft.data.video.spec import ClipSpec, content_of, files_of, from_text, in_files, sort_key
from cvft.jsonl import read_jsonl
from cvft.plan.recorded import read_recorded
from cvft.recipe import load_recipe
from cvft.runs import RunFolder
from tests.fixtures_video import draw_number
from tests.project import cvft_ok, make_project, write_jsonl
from tests.real_clips import real_clip

ODD = (
    "\u2028 \u2029 \x85 \x0b \x0c \x1c \x1d \x1e \r \r\n \x00 \x1b[31m \u202e \ufeff \ufffe \U0001f600 e\u0301 \\ "
    "$x_1$ <b>&amp;\"'</b> |`"
)
"""Line ends of all kinds, what terminals and pages take for orders, and letters of two forms."""


def odd_rows(clip, frames):
    clip, frames = [str(clip)], [str(path) for path in frames]
    extra = {"big": 10**400, "small": 1e-300, "": "no name", ODD: ODD, "nested": [[[[{"a": None}]]]], "query ": 1}
    return [
        {"query": f"What {ODD} is shown?", "response": f"a {ODD} man", "videos": clip, "category": ODD, **extra},
        {"query": "How many?", "response": 3, "videos": clip, "category": 3, "start": 2, "end": 6.5},
        {"query": "How many exactly?", "response": 1.5, "videos": clip, "category": "3", "start": 6.5, "max_frames": 3},
        {
            "query": "Is it?",
            "response": True,
            "videos": [frames],
            "seconds": [0, 1],
            "family": True,
            "prediction": "mine",
            "is_cut": [1],
        },
        {"query": "q" * 400, "response": "\x85x", "history": [[f"a{ODD}", 2], ["b", ODD]], "category": None, "id": 7},
        {"query": "Say yes.", "response": "\ufeff", "videos": [], "category": " ", "score": {"a": [1, "b", None]}},
    ]


def check_clips(run, clip, frames):
    """The stretches of one file are clips of their own in all that a run keeps, and are found where the file was moved to."""
    ready = ClipSpec(frames[0], frames=frames, seconds=(0.0, 1.0))
    clip = clip.resolve()
    stretches = {clip, ClipSpec(clip, 2.0, 6.5), ClipSpec(clip, 6.5, max_frames=3), ready}
    records = read_records(run / "data" / "clips.json")
    assert records.keys() == stretches
    assert [len(records[each].view.timestamps_s) for each in sorted(stretches, key=sort_key)] == [2, 11, 5, 3]
    named = {
        from_text(line["videos"][0]) for line in read_jsonl(run / "data" / "swift" / "train.jsonl") if line["videos"]
    }
    assert named == stretches
    (key,) = (run.parent / ".features").rglob("key.json")
    shards = [read_entries(path) for path in key.parent.glob("shard-*")]
    assert {name for shard in shards for name in shard} == {
        content_of(each, record.sha256) for each, record in records.items()
    }
    cards = json.loads(re.search(r'<script type="application/json" id="cards">(.*?)</script>', page_of(run))[1])
    assert [each["name"] for each in cards["clips"]] == [
        "bikes.mp4",
        "bikes.mp4 (2 to 6.5 s)",
        "bikes.mp4 (from 6.5 s, at most 3 frames)",
        "1.png (2 frames)",
    ]
    moved = clip.parent.rename(clip.parent.with_name("moved")) / clip.name
    recipe = load_recipe(run / "recipe.yaml", overrides=[f"data.video_root={moved.parent}"]).recipe
    recorded = read_recorded(RunFolder(run), "val", recipe=recipe)
    assert (recorded.gone, recorded.clips.keys()) == (
        [],
        {in_files(each, [moved.with_name(path.name) for path in files_of(each)]) for each in stretches},
    )


def page_of(run):
    return (run / "report.html").read_text()


def test_a_whole_job_on_odd_rows(tmp_path):
    clip = tmp_path / "clips" / "bikes.mp4"
    clip.parent.mkdir()
    shutil.copy(real_clip("bikes.mp4"), clip)
    frames = tuple((clip.parent / f"{number}.png").resolve() for number in (1, 2))
    for number, path in enumerate(frames):
        Image.fromarray(draw_number(number, width=160, height=96)).save(path)
    rows = odd_rows(clip, frames)
    # the first texts are dates and without a clip: types guessed from them would be wrong
    dates = [{"query": "2020-01-01", "response": "2020-01-01 10:00:00"}] * 3
    write_jsonl(tmp_path / "odd.jsonl", rows)
    recipe = make_project(
        tmp_path,
        rows=dates,
        data={"train": ["train.jsonl", {"path": "odd.jsonl", "weight": 2}]},
        val_rows=rows,
        train={"max_steps": 2, "save_steps": 2, "num_workers": 1},
        eval={"max_new_tokens": 4},
    )
    said = cvft_ok("run", recipe)
    run = tmp_path / "runs" / "small"
    wanted = read_rows(tmp_path / "val.jsonl")
    assert [row.to_json() for row in read_rows(run / "data" / "val.jsonl")] == [row.to_json() for row in wanted]
    messages = read_jsonl(run / "data" / "swift" / "train.jsonl")
    assert [line["messages"][-1]["content"] for line in messages] == [
        row.response for name in ("train.jsonl", "odd.jsonl") for row in read_rows(tmp_path / name)
    ]
    assert "12 of 15 rows per epoch (80%)" in said.stderr
    assert json.loads((run / "plan.json").read_text())["worker"]["steps_per_epoch"] == 4
    predictions = read_jsonl(run / "eval" / "merged" / "predictions.jsonl")
    assert [line["query"] for line in predictions] == [row.query for row in wanted]
    assert [line["response"] for line in predictions] == [f"a {ODD} man", "3", "1.5", "true", "\x85x", "\ufeff"]
    assert predictions[0][ODD] == ODD
    assert predictions[0]["big"] == 10**400
    metrics = json.loads((run / "eval" / "merged" / "metrics.json").read_text())["metrics"]
    assert metrics["categories"].keys() == {category_of(row) for row in wanted} - {None} == {ODD, "3", "true"}
    assert (run / "report.html").is_file()
    check_clips(run, clip, frames)
    assert ODD not in said.stdout
    assert "\x1b[31m" not in said.stdout + said.stderr
