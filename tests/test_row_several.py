"""Rows that show several clips or pictures: read from every format, split and shaped, refused where a model takes one.

What models make of them is in `test_qwen_golden.py` and `test_families_groups.py`, a whole training in `test_row_images.py`.
"""

import csv
import io
import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cvft.clips.source import DecodedClips
from cvft.data.check import check_clips
from cvft.data.connected import connect
from cvft.data.groups import RowShape, encodes_a_clip_again, make_steps, most_rows_per_clip
from cvft.data.rows import Row, read_rows, write_rows
from cvft.data.shares import Share, take_share
from cvft.data.split import split_by_clip
from cvft.data.video.sample import Sampling
from cvft.data.video.spec import ClipSpec, make_image
from cvft.errors import CvftError, DataError
from cvft.evaluate.metrics.rows import clips_of
from cvft.families.answering import Answer
from cvft.families.cogvlm2_video.family import COGVLM2_VIDEO
from cvft.families.network.prefixes import KeptPrefixes
from cvft.handover.run import _check_rows
from cvft.plan.forecast import forecast
from cvft.plan.lengths import check_rows_fit, measure_rows
from cvft.predict.outputs import check_form, write_answers
from cvft.predict.predictor import Predictor
from cvft.predict.running import RunningPrompts
from cvft.recipe import Recipe, load_recipe
from cvft.weights.folder import ModelFolder
from tests.opened import Opened
from tests.project import cvft as command
from tests.project import make_project, real_clip, with_real_clips, write_jsonl
from tests.tiny import TINY

VIDEO = {"type": "video", "video": "a.mp4"}
OTHER = {"type": "video", "video": "b.mp4"}
QUERY = {"type": "text", "text": "Which is longer?"}
ANSWER = {"role": "assistant", "content": "The first."}
TURNS = [{"from": "human", "value": "<video>\n<video>\nWhich is longer?"}, {"from": "gpt", "value": "The first."}]
BOTH = ["a.mp4", "b.mp4"]
IN_FORMATS = {
    "native": {"query": "<video><video> Which is longer?", "response": "The first.", "videos": BOTH},
    "messages": {"messages": [{"role": "user", "content": [VIDEO, OTHER, QUERY]}, ANSWER]},
    "sharegpt": {"conversations": TURNS, "videos": BOTH},
    "llava": {"conversations": [{**TURNS[0], "value": "<image>\n<image>\nWhich is longer?"}, TURNS[1]], "video": BOTH},
    "alpaca": {"instruction": "Which is longer?", "input": "", "output": "The first.", "videos": BOTH},
}


@pytest.fixture
def folder(tmp_path):
    for name in (*BOTH, "c.mp4", "1.jpg", "2.jpg", "3.jpg"):
        (tmp_path / name).write_bytes(name.encode() * 9)
    return tmp_path.resolve()


def read(folder, columns, **options):
    row = {"query": "Which is longer?", "response": "The first.", **columns}
    return read_rows(write_jsonl(folder / "rows.jsonl", [row]), **options)[0]


@pytest.mark.parametrize("name", IN_FORMATS)
def test_every_format_holds_them_in_their_order(name, folder):
    file = write_jsonl(folder / "rows.jsonl", [IN_FORMATS[name]])
    (row,) = read_rows(file, format="llava" if name == "llava" else "auto")
    assert (row.query, row.videos) == ("Which is longer?", (folder / "a.mp4", folder / "b.mp4"))
    assert (dict(row.extra), row.format) == ({}, name)
    write_rows([row], folder / "again.jsonl")
    assert read_rows(folder / "again.jsonl")[0].to_json() == row.to_json()


def test_a_cell_of_a_table_lists_them(folder):
    (folder / "rows.csv").write_text('question,answer,video\nWhich?,"a","[""a.mp4"", ""b.mp4""]"\nWho?,b,a.mp4\n')
    assert [len(row.videos) for row in read_rows(folder / "rows.csv", format="csv")] == [2, 1]


STATED = [
    (
        {"videos": BOTH, "start": [1, None], "end": [2.5, 3]},
        [ClipSpec(Path("a.mp4"), 1, 2.5), ClipSpec(Path("b.mp4"), None, 3)],
    ),
    ({"videos": BOTH, "max_frames": 4}, [ClipSpec(Path(each), max_frames=4) for each in BOTH]),
    ({"videos": BOTH, "start": [1, 1]}, [ClipSpec(Path(each), 1) for each in BOTH]),
    ({"videos": BOTH, "fps": [2, None]}, [ClipSpec(Path("a.mp4"), fps=2), Path("b.mp4")]),
    ({"videos": ["a.mp4", "a.mp4"], "start": [None, 4]}, [Path("a.mp4"), ClipSpec(Path("a.mp4"), 4)]),
    (
        {"videos": ["a.mp4", ["1.jpg", "2.jpg"]], "seconds": [None, [0, 0.5]]},
        [Path("a.mp4"), ClipSpec(Path("1.jpg"), frames=(Path("1.jpg"), Path("2.jpg")), seconds=(0, 0.5))],
    ),
    ({"images": ["1.jpg", "2.jpg"]}, [make_image(Path("1.jpg")), make_image(Path("2.jpg"))]),
]


@pytest.mark.parametrize(("columns", "clips"), STATED, ids=[str(columns) for columns, _ in STATED])
def test_what_a_row_says_of_each_is_read_and_written_again(folder, monkeypatch, columns, clips):
    monkeypatch.chdir(folder)
    row = read(folder, columns)

    def here(clip):
        if isinstance(clip, Path):
            return folder / clip
        return replace(clip, path=folder / clip.path, frames=tuple(folder / each for each in clip.frames))

    assert row.videos == tuple(map(here, clips))
    write_rows([row], folder / "again.jsonl")
    assert read_rows(folder / "again.jsonl")[0].videos == row.videos


REFUSED = [
    (
        {"videos": BOTH, "start": 1},
        "`start`: got the number `1`, need a list of 2, one for each clip, null where",
    ),
    ({"videos": BOTH, "max_frames": [1, 2, 3]}, "`max_frames`: got the list `[1, 2, 3]`, need a list of 2"),
    ({"videos": BOTH, "start": [3, 1], "end": [2, 2]}, "`end`: got the number `2`, need more than `start` (3 s)"),
    ({"videos": ["a.mp4", "1.jpg"]}, "`videos`: got `1.jpg` beside a clip, need clips alone"),
    (
        {"videos": BOTH, "images": ["1.jpg"]},
        "`images`: got 1 picture beside a clip, need clips in `videos`, or pictures in",
    ),
    ({"videos": ["1.jpg", "2.jpg"]}, "`videos`: got 2 pictures, need a list of paths"),
    ({"videos": ["a.mp4", "no.mp4"]}, "`videos`: got `no.mp4`, which does not exist"),
    (
        {"videos": BOTH, "query": "<video>Which?"},
        "`query`: got 1 tag, 1 of them at the head, need 2 at the head of the first",
    ),
    (
        {"videos": BOTH, "query": "Is <video> longer than <video>?"},
        "`query`: got 2 tags, 0 of them at the head, need 2",
    ),
    ({"videos": BOTH, "query": "<video>a <video>b"}, "`query`: got 2 tags, 1 of them at the head, need 2 at the head"),
    ({"videos": BOTH, "history": [["What?", "x"]], "query": "<video><video>a"}, "`history`: got 2 tags, 0 of them"),
    ({"videos": BOTH, "query": "<image><image>a"}, "`query`: got `<image>` in a question"),
    ({"images": ["1.jpg", "2.jpg"], "query": "<image>a"}, "`query`: got 1 tag, 1 of them at the head, need 2"),
]


@pytest.mark.parametrize(("columns", "said"), REFUSED, ids=[str(columns) for columns, _ in REFUSED])
def test_what_is_not_clear_is_refused_with_its_line(folder, columns, said):
    with pytest.raises(DataError) as raised:
        read(folder, columns)
    assert f"rows.jsonl:1 {said}" in str(raised.value)


def test_a_part_behind_text_would_say_which_clip_is_meant(folder):
    rows = [{"messages": [{"role": "user", "content": [VIDEO, QUERY, OTHER]}, ANSWER]}]
    file = write_jsonl(folder / "rows.jsonl", rows)
    with pytest.raises(DataError, match="got a part of the type `video` behind text, beside others, need several"):
        read_rows(file, format="messages")
    stretch = {**VIDEO, "video_start": 1, "video_end": 2}
    row = {"messages": [{"role": "user", "content": [stretch, OTHER, QUERY]}, ANSWER]}
    (found,) = read_rows(write_jsonl(folder / "rows.jsonl", [row]), format="messages")
    assert found.videos == (ClipSpec(folder / "a.mp4", 1, 2), folder / "b.mp4")


def rows_of(folder, *names):
    clips = [tuple(folder / f"{each}.mp4" for each in name) for name in names]
    return [Row(f"q{number}", "r", (), each, folder / "rows.jsonl", number) for number, each in enumerate(clips)]


def test_rows_that_share_any_clip_stay_on_one_side_and_are_drawn_together(folder):
    assert connect(["ba", "dc", "e", "bd"]) == {**dict.fromkeys("abcd", "a"), "e": "e"}
    names = ["ab", "c", "bd", "e", "d", "f", "ga", ""]
    rows = rows_of(folder, *names)
    contents = {folder / f"{each}.mp4": each for each in "abcdefg"}
    for seed in range(6):
        sides = [
            {row.query for row in side} for side in split_by_clip(rows, val_fraction=0.3, seed=seed, contents=contents)
        ]
        assert sum({"q0", "q2", "q4", "q6"} <= side for side in sides) == 1
    assert [clip == clips_of(rows)[0] for clip in clips_of(rows)] == [
        True,
        False,
        True,
        False,
        True,
        False,
        True,
        False,
    ]
    assert sorted(len(take_share(rows, Share(number, 2))) for number in range(2)) == [4, 4]


def test_rows_with_the_same_clips_in_the_same_order_train_together():
    two, turned, one = RowShape((0, 1), 9, 5), RowShape((1, 0), 9, 5), RowShape((0,), 5, 5)
    shapes = [two, turned, one, two, one]
    steps = make_steps(shapes, global_batch_rows=5, max_rows_per_group=8, seed=0)
    assert sorted(tuple(sorted(group)) for step in steps for group in step) == [(0, 3), (1,), (2, 4)]
    assert most_rows_per_clip(shapes) == 2
    assert encodes_a_clip_again([two, one], max_rows_per_group=8)
    assert encodes_a_clip_again([RowShape((0, 0), 9, 5)], max_rows_per_group=8)
    assert not encodes_a_clip_again([two, two], max_rows_per_group=8)


def test_a_bad_clip_sets_its_rows_aside_and_the_good_one_beside_it(tmp_path):
    (tmp_path / "bad.mp4").write_text("no clip")
    good, bad, other = real_clip("bikes.mp4"), tmp_path / "bad.mp4", real_clip("carphone_pristine.mp4")
    rows = [Row("q", "r", (), clips, tmp_path / "r", 1) for clips in ((good, bad), (other,), (bad, bad))]
    check = check_clips(rows, sampling=Sampling("base"), on_bad_clip="quarantine", num_workers=1)
    assert (check.rows, [item.row for item in check.quarantined]) == ([rows[1]], [rows[0], rows[2]])
    assert all(item.reason.count("bad.mp4") == 1 for item in check.quarantined)
    assert list(check.facts) == [other]
    with pytest.raises(DataError, match="which leaves no row"):
        check_clips(rows[:1], sampling=Sampling("base"), on_bad_clip="quarantine", num_workers=1)


ONE = "`videos`: got 2 clips, need at most one: this model takes one clip a row"


@pytest.mark.parametrize("kind", ["internvl3_5", "glm4v", "llava_onevision"])
def test_families_of_one_clip_a_row_say_so(kind, tmp_path):
    opened = Opened(tmp_path / kind, kind)
    row = replace(rows_of(tmp_path, "ab")[0], line=7)
    for shown in (
        lambda: opened.family.layouts(opened.folder, opened.how)(row, ()),
        lambda: opened.encoder.encode(row, [opened.clip(num_frames=2)] * 2, with_response=False),
    ):
        with pytest.raises(DataError) as raised:
            shown()
        assert f"rows.jsonl:7 {ONE}" in str(raised.value)


def test_a_plan_says_so_before_anything_is_decoded(tmp_path):
    recipe = make_project(
        tmp_path, rows=with_real_clips([{"query": "Which?", "response": "a", "videos": ["bikes.mp4"] * 2}] * 2)
    )
    planned = command("plan", recipe)
    assert (planned.returncode, f"train.jsonl:2 {ONE}" in planned.stderr) == (2, True)
    assert "Qwen2.5-VL, Qwen3-VL and Qwen3.5 take several a row" in planned.stderr
    recipe = Recipe(model={"path": str(TINY)}, data={"train": Path("x")})
    folder = ModelFolder.of(TINY)
    with pytest.raises(DataError, match="need at most one"):
        COGVLM2_VIDEO.layouts(folder, COGVLM2_VIDEO.preprocessing(recipe, folder))(rows_of(tmp_path, "ab")[0], ())


def test_shapes_count_each_clip_and_a_row_too_long_is_named(tmp_path):
    opened = Opened(tmp_path / "qwen3_vl", "qwen3_vl")
    clips = {tmp_path / f"{name}.mp4": info for name, info in zip("ab", infos(opened), strict=True)}
    rows = rows_of(tmp_path, "ab", "ba", "a", "")
    lay_out = opened.family.layouts(opened.folder, opened.how)
    shapes = measure_rows(rows, lay_out=lay_out, clips=clips)
    assert [shape.clips for shape in shapes] == [(0, 1), (1, 0), (0,), ()]
    assert shapes[0].num_frames == shapes[1].num_frames[::-1] == (6, 2)
    (first,) = shapes[2].num_clip_tokens
    assert shapes[0].num_clip_tokens == shapes[1].num_clip_tokens[::-1] == (first, first // 3)
    assert shapes[0].num_tokens > shapes[2].num_tokens > shapes[3].num_tokens
    most = shapes[0].num_tokens - 1
    with pytest.raises(DataError, match=rf"rows\.jsonl:0: got {most + 1} tokens, need at most {most}"):
        check_rows_fit(rows[2:] + rows[:1], shapes[2:] + shapes[:1], max_tokens=most)


def infos(opened):
    longest = opened.family.longest_clip(opened.folder, opened.how)
    short = {"num_frames": 2, "timestamps_s": longest.timestamps_s[:2], "frame_indices": longest.frame_indices[:2]}
    return [longest, replace(longest, **short, sha256="b")]


@pytest.mark.parametrize("kind", ["qwen3_vl", "qwen2_5_vl", "qwen3_5"])
def test_what_is_kept_of_clips_is_kept_for_all_of_them_in_their_order(kind, tmp_path):
    """The second clips of two rows have one size, so that their prefixes have the same ids."""
    opened = Opened(tmp_path / kind, kind, video={"max_frames": 4})
    one, other, like_it = map(real_clip, ("bikes.mp4", "carphone_pristine.mp4", "carphone_distorted.mp4"))
    asked = [(one, other), (one, like_it), (other, one), (one,), (one, other), (other, one)]
    rows = [
        Row(f"What is {number}?", "", (), clips, tmp_path / "rows.jsonl", number) for number, clips in enumerate(asked)
    ]
    with closing(DecodedClips(opened.encoder, opened.how.decode)) as clips:
        predictor = Predictor(opened.load(), runtime=opened.runtime, encoder=opened.encoder, clips=clips)
        prompts = [predictor.prepare(row, max_new_tokens=6) for row in rows]
    ids = [prompt.tensors["input_ids"][prompt.tensors["segment_ids"] == 0].tolist() for prompt in prompts]
    assert ids[0] == ids[1]

    def answer(prompt, kept):
        running = RunningPrompts(predictor, kept=kept)
        tokens = running.join([prompt], drawings=[None])
        while tokens[0].answer is None:
            tokens = running.step()
        return tokens[0].answer.text

    kept = KeptPrefixes(2**30)
    assert [answer(prompt, kept) for prompt in prompts] == [answer(prompt, None) for prompt in prompts]
    assert (kept.num_asked, kept.num_found) == (6, 2)


@pytest.mark.parametrize("kind", ["qwen3_vl", "qwen2_5_vl"])
def test_tensors_of_clips_follow_one_another_in_the_rows_order(kind, tmp_path):
    opened = Opened(tmp_path / kind, kind)
    clips = (opened.clip(num_frames=4), opened.clip(num_frames=3, height=96, seed=1))
    (row,) = opened.rows(num_rows=1, clip=clips, seed=0)
    for name in ("pixel_values_videos", "video_grid_thw"):
        assert torch.equal(row[name], torch.cat([clip.tensors[name] for clip in clips]))
    tower = opened.runtime.tower(opened.folder, dtype="fp32", device="cpu")
    features = [tower(clip.tensors) for clip in clips]
    cached = tuple(replace(clip, tensors={"vision_features": each}) for clip, each in zip(clips, features, strict=True))
    (kept,) = opened.rows(num_rows=1, clip=cached, seed=0)
    assert torch.equal(kept["vision_features"], torch.cat(features, dim=1))
    assert kept["vision_features"].shape[1] == int((row["input_ids"] == opened.encoder.special.video).sum())


def test_answers_name_all_of_them(tmp_path):
    rows = rows_of(tmp_path, "ab", "c")
    answers = {number: Answer("yes", is_cut=False) for number in range(2)}
    lines = list(csv.DictReader(io.StringIO(write_answers(rows, answers, "csv"))))
    assert [line["video"] for line in lines] == [f"{tmp_path}/a.mp4 {tmp_path}/b.mp4", f"{tmp_path}/c.mp4"]
    written = [json.loads(line) for line in write_answers(rows, answers, "jsonl").splitlines()]
    assert written[0]["videos"] == [f"{tmp_path}/a.mp4", f"{tmp_path}/b.mp4"]
    with pytest.raises(CvftError, match="got rows about 2 clips, need rows about one clip"):
        check_form(rows[:1], "srt")


def test_an_engine_is_not_handed_them(tmp_path):
    with pytest.raises(CvftError, match=r"rows\.jsonl:0 `videos`: got 2 clips, need one clip: what a request tells"):
        _check_rows(rows_of(tmp_path, "ab"), sends="frames")


def test_a_forecast_reads_the_clips_of_some_rows_and_takes_the_others_to_be_like_them(tmp_path):
    asked = (["bikes.mp4", "carphone_pristine.mp4"], ["bikes.mp4", "carphone_distorted.mp4"], ["bikes.mp4"])
    rows = with_real_clips([{"query": "Which?", "response": "a", "videos": names} for names in asked])
    recipe = make_project(
        tmp_path, rows=rows, val_rows=rows[:1], model={"path": "tiny-qwen3-vl"}, video={"max_frames": 4}
    )
    found = forecast(load_recipe(recipe), max_clips=2)
    assert (found.num_clips_read in (1, 2), found.num_clips) == (True, 3)
    shapes = found.prepared.row_facts.train
    assert [shape.clips for shape in shapes] == [(0, 1), (0, 2), (0,)]
    assert all(shape.num_frames == (4,) * len(shape.clips) for shape in shapes)
