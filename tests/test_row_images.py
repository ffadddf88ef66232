"""Rows that show a picture in place of a clip: read from every format, taken as an image, beside rows with clips."""

import contextlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import cvft
from cvft.clips.source import ClipInputs
from cvft.data.rows import Row, read_rows, write_rows
from cvft.data.video.decode import Clip
from cvft.data.video.spec import content_of, from_text, make_image, name_of, to_text
from cvft.errors import DataError
from tests.opened import Opened
from tests.project import cvft as command
from tests.project import cvft_ok, make_project, with_real_clips, write_jsonl
from tests.server import serving, text_part

SAID = [{"from": "human", "value": "<image>\nWho?"}, {"from": "gpt", "value": "A dog."}]
PART = {"type": "image", "image": "a.png"}
IN_FORMATS = {
    "native": {"query": "<image>Who?", "response": "A dog.", "images": ["a.png"]},
    "messages": {
        "messages": [
            {"role": "user", "content": [PART, {"type": "text", "text": "Who?"}]},
            {"role": "assistant", "content": "A dog."},
        ]
    },
    "sharegpt": {"conversations": SAID, "images": ["a.png"], "videos": []},
    "llava": {"conversations": SAID, "image": "a.png"},
    "alpaca": {"instruction": "<image>Who?", "input": "", "output": "A dog.", "images": ["a.png"]},
}


def draw(path, *, size=(96, 64), seed=0):
    """A picture of noise, width by height."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    draw(tmp_path / "a.png")
    return tmp_path


@pytest.mark.parametrize("name", IN_FORMATS)
def test_every_format_holds_it_and_it_is_written_again(name, folder):
    file = write_jsonl(folder / "rows.jsonl", [IN_FORMATS[name]])
    (row,) = read_rows(file, format="llava" if name == "llava" else "auto")
    assert (row.query, row.response, row.videos[0]) == ("Who?", "A dog.", make_image(folder.resolve() / "a.png"))
    assert (row.extra, row.format) == ({}, name)
    write_rows([row], folder / "again.jsonl")
    (again,) = read_rows(folder / "again.jsonl")
    assert again.to_json() == row.to_json()
    assert from_text(to_text(row.videos[0])) == row.videos[0]
    assert (
        name_of(row.videos[0]),
        content_of(row.videos[0], "0") == content_of(replace(row.videos[0], is_image=False), "0"),
    ) == (
        "a.png",
        False,
    )


REFUSED = [
    ({"images": ["a.png", "a.txt"]}, "`images`: got `a.txt`, need a picture, by its name one of"),
    ({"images": ["a.png", "a.mp4"]}, "`images`: got a clip, need pictures in `images`, and clips in `videos`"),
    ({"images": ["no.png"]}, "`images`: got `no.png`, which does not exist"),
    ({"images": "a.png"}, 'a list of paths\n    hint: write `"images": ["a.png"]`'),
    (
        {"images": ["a.png"], "end": 2},
        "`end`: got the number `2`, need a clip of which it says something, and no picture",
    ),
    ({"images": ["a.png"], "query": "<video>Who?"}, "`query`: got `<video>` in a question"),
    ({"images": ["a.png"], "query": "<image><image>"}, "`query`: got 2 tags such as `<image>`, need at most 1"),
    ({"images": ["a.png"], "audios": ["a.wav"]}, "`audios`: got sound"),
]


@pytest.mark.parametrize(("columns", "said"), REFUSED, ids=[str(columns) for columns, _ in REFUSED])
def test_what_is_no_picture_is_refused(folder, columns, said):
    rows = write_jsonl(folder / "rows.jsonl", [{"query": "Who?", "response": "A dog.", **columns}])
    with pytest.raises(DataError) as raised:
        read_rows(rows)
    assert said in str(raised.value)


@pytest.mark.parametrize("kind", ["internvl3_5"])
def test_families_that_take_clips_alone_say_why(kind, tmp_path):
    opened = Opened(tmp_path / kind, kind)
    row = Row("Who?", "A dog.", (), (make_image(Path("a.png")),), source=Path("rows.jsonl"), line=1)
    for read in (
        lambda: opened.family.layouts(opened.folder, opened.how)(row, ()),
        lambda: opened.encoder.encode(row, (), with_response=False),
    ):
        with pytest.raises(DataError, match=r"rows.jsonl:1 `images`: got `a.png`, need a clip or none: "):
            read()
    assert not opened.encoder.takes_images


def test_a_model_of_clips_alone_says_so_before_it_is_loaded(tmp_path):
    asked = command("infer", "--model", "tiny", "--video", draw(tmp_path / "a.png"), "--query", "Who?")
    assert (asked.returncode, "CogVLM2-Video was made for clips alone" in asked.stderr) == (2, True)


def shown(opened, *, is_image, num_frames=1, seed=0, height=64, width=96):
    frames = np.random.default_rng(seed).integers(0, 256, (num_frames, height, width, 3), dtype=np.uint8)
    seconds = np.arange(num_frames, dtype=np.float32)
    clip = Clip(
        frames, seconds, tuple(range(num_frames)), num_frames, 1.0, float(num_frames), "pyav", is_image=is_image
    )
    return ClipInputs(opened.encoder.clip(clip), clip.view)


@pytest.mark.parametrize("kind", ["qwen3_vl", "qwen2_5_vl", "qwen3_5", "glm4v"])
def test_pictures_and_clips_train_in_one_batch_as_apart_and_from_features(kind, tmp_path):
    opened = Opened(tmp_path / kind, kind)
    model = opened.load().double() if kind == "qwen2_5_vl" else opened.load()
    tower = opened.runtime.tower(opened.folder, dtype="fp32", device="cpu")
    clips = [
        shown(opened, is_image=True, height=160),
        shown(opened, is_image=False, num_frames=4, seed=1),
        shown(opened, is_image=True, seed=2),
    ]
    rows = [
        [
            opened.encoder.encode(row, [clip], with_response=True)
            for row in (ask("What?"), ask("What is it, and where?"))
        ]
        for clip in clips
    ]
    image_id = opened.encoder.special.image
    is_one = kind == "glm4v"  # it has one token, and so one name, for both
    assert [int((pair[0]["input_ids"] == image_id).sum()) > 0 for pair in rows] == [True, is_one, True]
    singles = [opened.encoder.collate([row]) for pair in rows for row in pair]
    joined = opened.encoder.collate([opened.encoder.join(pair) for pair in rows])
    num_each = {name: len(joined[name]) for name in ("image_grid_thw", "video_grid_thw") if name in joined}
    assert num_each == ({"video_grid_thw": 3} if is_one else {"image_grid_thw": 2, "video_grid_thw": 1})

    def loss(batch):
        inputs = {key: value.to(model.dtype) if is_pixels(value) else value for key, value in batch.items()}
        with torch.no_grad():
            return opened.runtime.loss(model, inputs, num_items=1).loss.item()

    together, apart = loss(joined), sum(map(loss, singles))
    assert together == pytest.approx(apart, rel=1e-5)
    with torch.inference_mode():
        cached = [replace(clip, tensors={"vision_features": tower(clip.tensors)}) for clip in clips]
    kept = opened.encoder.collate([opened.encoder.encode(ask("What?"), [clip], with_response=True) for clip in cached])
    live = opened.encoder.collate([pair[0] for pair in rows])
    assert kept.keys() & {"image_features", "vision_features"} == (
        {"vision_features"} if is_one else {"image_features", "vision_features"}
    )
    assert loss(kept) == pytest.approx(loss(live), rel=1e-12 if model.dtype == torch.float32 else 1e-6)


def is_pixels(value):
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def ask(query):
    return Row(query, "a bird", (), (), source=Path("rows.jsonl"), line=1)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A trained run, of whose rows some show pictures, and some several clips or pictures."""
    folder = tmp_path_factory.mktemp("job")
    pictures = [str(draw(folder / f"{name}.png", size=size)) for name, size in (("a", (96, 64)), ("b", (64, 160)))]
    rows = [
        {"query": "What is shown?", "response": "noise", "images": [pictures[0]]},
        {"query": "How much?", "response": "a lot", "images": [pictures[0]]},
        {"query": "<image>What is shown?", "response": "noise", "images": [pictures[1]]},
        {"query": "What is shown?", "response": "bikes", "videos": ["bikes.mp4"]},
        {"query": "When?", "response": "at second 3", "videos": ["bikes.mp4"]},
        {"query": "Say yes.", "response": "yes"},
        {"query": "Which is longer?", "response": "the first", "videos": ["carphone_pristine.mp4", "bikes.mp4"]},
        {"query": "Who rides?", "response": "nobody", "videos": ["carphone_pristine.mp4", "bikes.mp4"]},
        {"query": "<image><image>Which is taller?", "response": "the second", "images": pictures},
        {"query": "Which is longer?", "response": "the second", "videos": ["bikes.mp4", "carphone_pristine.mp4"]},
    ]
    recipe = make_project(
        folder,
        rows=with_real_clips(rows),
        val_rows=with_real_clips([*rows[:2], *rows[3:]]),
        model={"path": "tiny-qwen3-vl", "dtype": "fp32"},
        lora={"rank": 4, "alpha": 8, "dropout": 0.0, "targets": "all-linear"},
        video={"max_frames": 4},
        train={"global_batch_rows": 10, "max_steps": 2},
    )
    return recipe, cvft_ok("run", recipe), pictures


def test_the_whole_job_takes_them(done):
    recipe, said, pictures = done
    run = recipe.parent / "runs" / "small"
    assert "7 of 19 rows show pictures, which the model takes as images" in said.stderr
    assert "8 of 19 rows show 2 clips or pictures each, one after the other before their text" in said.stderr
    assert "features  each clip is encoded once" in said.stderr
    cvft_ok("train", recipe, "name=apart", "train.group_by_clip=off", "video.cache_features=off")

    def losses(name):
        lines = (recipe.parent / "runs" / name / "train" / "logging.jsonl").read_text().splitlines()
        return [line["loss"] for line in map(json.loads, lines) if "loss" in line]

    assert losses("small") == pytest.approx(losses("apart"), abs=1e-5)
    lines = list(map(json.loads, (run / "eval" / "merged" / "predictions.jsonl").read_text().splitlines()))
    assert [line.get("images") for line in lines] == [
        *([pictures[0]], [pictures[0]]),
        *(None, None, None, None, None),
        *(pictures, None),
    ]
    assert [Path(each).name for each in lines[5]["videos"]] == ["carphone_pristine.mp4", "bikes.mp4"]
    with contextlib.closing(cvft.load(run / "merged")) as model:
        first = lines[0]
        assert model.ask(pictures[0], first["query"], max_new_tokens=8) == first["prediction"]
        assert model.answer(lines, max_new_tokens=8) == [line["prediction"] for line in lines]
    # the same rows in another file, pictures among them, are known again
    with (recipe.parent / "train.jsonl").open("a") as file:
        file.write("\n")
    assert "other rows" not in cvft_ok("train", recipe).stderr


def test_command_line_and_server_take_them_as_images(done):
    _, _, pictures = done
    query = "What is shown?"
    with contextlib.closing(cvft.load("tiny-qwen3-vl")) as model:
        own = model.ask(pictures[1], query)
        (as_clip,) = model.answer([{"query": query, "videos": [[pictures[1]]], "seconds": [0]}])
    said = cvft_ok("infer", "--model", "tiny-qwen3-vl", "--video", pictures[1], "--query", query)
    assert said.stdout.strip() == own
    part = {"type": "image_url", "image_url": {"url": Path(pictures[1]).name}}
    with serving("--model", "tiny-qwen3-vl", "--media-root", Path(pictures[1]).parent) as server:
        assert server.text([part, text_part(query)], model="tiny-qwen3-vl") == own
        told = server.text([part, text_part(query)], model="tiny-qwen3-vl", frame_seconds=[0])
        assert told == as_clip
