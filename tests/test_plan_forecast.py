"""`cvft plan`: its counts are those of the real encode, and nothing but rows, config.json and tokenizer is needed for them."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cvft.clips.source import DecodedClips
from cvft.data.rows import read_rows
from cvft.data.video.loader import DecodeSettings
from cvft.families.cogvlm2_video.runtime import RUNTIME, RowEncoder
from cvft.families.family import IGNORED_LABEL
from cvft.plan.forecast import forecast
from cvft.predict.predictor import Predictor
from cvft.recipe import load_recipe
from tests.project import ROWS, cvft, cvft_ok, files_under, make_project, with_real_clips
from tests.real_clips import real_clip
from tests.tiny import tiny_processor

ROOT = Path(__file__).parent.parent
SHAPES = ROOT / "datasets" / "tiny_shapes"
FOUR_GPUS = "recipes/cogvlm2_video_lora_zero2_4gpu.yaml"


def plan_json(*words: str) -> dict:
    return json.loads(cvft_ok("plan", *words, "--json", cwd=ROOT).stdout)


def test_token_counts_are_those_of_the_real_encode():
    found = forecast(load_recipe(ROOT / "recipes" / "tiny_cpu.yaml"))
    encoder = RowEncoder(tiny_processor(), sampling="chat")
    clips = DecodedClips(encoder, DecodeSettings.of("chat", max_frames=24, decoder="pyav"))
    predictor = Predictor(None, runtime=RUNTIME, encoder=encoder, clips=clips)
    facts = found.prepared.row_facts
    for names, shapes in ((("train", "replay"), facts.train), (("val",), facts.val)):
        rows = [row for name in names for row in read_rows(SHAPES / f"{name}.jsonl")]
        assert len(rows) == len(shapes) > 300
        for row, shape in zip(rows, shapes, strict=True):
            encoded = predictor.encode(row, with_response=True)
            assert shape.num_tokens == len(encoded["input_ids"])
            assert shape.num_prefix_tokens == int((encoded["segment_ids"] == 0).sum())
            assert shape.num_label_tokens == int((encoded["labels"] != IGNORED_LABEL).sum())
            assert sum(shape.num_frames) == len(encoded["pixel_values"])
    predictor.close()


def test_a_plan_says_why_features_are_cached_or_not(tmp_path):
    recipe = make_project(tmp_path)
    said = cvft_ok("plan", recipe).stdout
    line = next(line for line in said.splitlines() if line.startswith("features  "))
    assert "each clip is encoded once and cached" in line
    assert f"of half of what the disk of {tmp_path / 'runs' / '.features'} has room for" in line
    assert re.search(r"; pixels would take \S+ GB; features save \d+% of the FLOPs\)$", line)
    said = cvft_ok("plan", recipe, "video.cache_limit_gb=1e-6").stdout
    assert re.search(
        r"features  not cached: .* \(features would take \S+ GB, more than the 1e-06 GB of `video.cache_limit_gb`; pixels would "
        r"take \S+ GB, more than that; features would save ",
        said,
    )
    said = cvft_ok("plan", recipe, "lora.targets=all-linear", "lora.train_vision_tower=true").stdout
    (line,) = (line for line in said.splitlines() if line.startswith("pixels  "))
    assert "each clip is decoded once and cached in" in line
    assert "(no features: `lora.train_vision_tower` says so, or changes them; pixels take 0.00" in line
    assert re.search(r"disk      the pixels take \S+ GB for \d+ frames", said)


def test_the_four_gpu_recipe_is_planned_without_weights_and_without_torch(full_size):
    words = ["plan", FOUR_GPUS, "--gpu", "A100-40GB", *full_size]
    code = (
        "import sys; from cvft.cli.main import main; code = main(sys.argv[1:]); "
        "print(sorted({'torch', 'transformers', 'swift'} & set(sys.modules)), file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stderr.splitlines()[-1] == "[]"
    for part in ("4 x A100-40GB", "12,507,530,496 of which 2,621,440 are trained", "--nproc-per-node 4", "x 4 ranks"):
        assert part in done.stdout, part
    values = plan_json(*words[1:])
    assert values["recompute"] is False
    assert 16e9 < values["memory_bytes"]["peak"] < values["memory_bytes"]["device"]
    assert values["seconds"]["training"] == pytest.approx(3 * values["seconds"]["epoch"])
    assert values["micro_batches_per_epoch"]["physical_tokens"] < values["micro_batches_per_epoch"]["logical_tokens"]
    assert values["features"]["bytes"] == 637 * 64 * 1792 * 2
    assert not list(ROOT.glob("runs/cogvlm2_video_lora_zero2_4gpu*"))


def test_a_sample_of_the_clips_stands_for_all(full_size):
    values = plan_json(FOUR_GPUS, "--gpu", "H200", "--clips", "9", *full_size)
    assert values["clips"] == {"all": 96, "decoded": 9}
    assert values["rows"] == {"train": 374, "val": 330}
    assert values["recompute"] is False


def test_what_this_machine_or_its_memory_refuses_is_told_after_the_plan(full_size):
    much = ["train.global_batch_rows=64", "train.micro_batch_rows=64", "train.gradient_checkpointing=false"]
    result = cvft("plan", "recipes/cogvlm2_video_lora_1gpu.yaml", "--gpu", "RTX 3090", *full_size, *much, cwd=ROOT)
    assert result.returncode == 2
    assert "steps     18 (6 per epoch)" in result.stdout
    assert "memory: got" in result.stderr
    assert "need at most the 23.1 GiB that each rank's device has" in result.stderr
    assert "hint: train.gradient_checkpointing=true" in result.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([FOUR_GPUS, "--gpu", "A200"], "--gpu: got `A200`, need one of `RTX 3090`"),
        (
            ["recipes/tiny_cpu.yaml", "--gpu", "L4"],
            "--gpu: got `L4` for a recipe with `parallel.device` cpu, need no GPU",
        ),
    ],
)
def test_a_gpu_that_cannot_be_planned_for_is_refused(words, told):
    result = cvft("plan", *words, cwd=ROOT)
    assert result.returncode == 2
    assert told in result.stderr


def test_what_is_read_as_the_category_is_noted_and_not_called_unused(tmp_path):
    row = {"query": "q", "response": 5}
    old, odd = {**row, "family": "colour", "score": 1}, {**row, "category": " "}
    recipe = make_project(
        tmp_path, rows=[row, old, odd], val_rows=[{**row, "category": "colour"}], train={"max_steps": 40}
    )
    assert json.loads(cvft_ok("plan", recipe, "--json").stdout)["notes"] == [
        "column `score` (1 rows) is kept but not trained on",
        "column `family` is read as `category`",
        "column `category` of 1 rows holds no text: these rows count in the means over all rows only",
        "column `response` holds numbers or booleans in 4 rows (train.jsonl:1, train.jsonl:2, train.jsonl:3 and 1 more): "
        "taken as text",
    ]


def test_bad_clips_that_training_would_set_aside_are_planned_without_and_nothing_is_written(tmp_path):
    (tmp_path / "bad.mp4").write_bytes(real_clip("bikes.mp4").read_bytes()[:9000])
    bad = {"query": "q", "response": "r", "videos": [str(tmp_path / "bad.mp4")]}
    recipe = make_project(tmp_path, rows=[*with_real_clips(ROWS), bad, bad], data={"on_bad_clip": "quarantine"})
    before = files_under(tmp_path)
    said = cvft_ok("plan", recipe).stdout.splitlines()
    assert said[0] == "rows      6 train, 3 val, 2 quarantined; 2 clips"
    assert said[1].startswith(f"set aside {tmp_path}/train.jsonl:7: {tmp_path}/bad.mp4 (decoder `pyav`): got")
    assert said[2].startswith("tokens    ")  # once per clip
    values = json.loads(cvft_ok("plan", recipe, "--json").stdout)
    assert values["quarantined"]["rows"] == 2
    assert len(values["quarantined"]["examples"]) == 1
    assert values["rows"] == {"train": 6, "val": 3}
    refused = cvft("plan", recipe, "data.on_bad_clip=error")
    assert (refused.returncode, "train.jsonl:7, 8" in refused.stderr) == (2, True)
    assert files_under(tmp_path) == before


def test_a_sample_of_bad_clips_alone_stands_for_nothing(tmp_path):
    paths = [tmp_path / f"{number}.mp4" for number in range(3)]
    for path in paths:
        path.write_bytes(real_clip("bikes.mp4").read_bytes()[:9000])
    rows = [{"query": "q", "response": "r", "videos": [str(path)]} for path in paths] + [ROWS[-1]]
    recipe = make_project(tmp_path, rows=rows, val_rows=[ROWS[-1]], data={"on_bad_clip": "quarantine"})
    result = cvft("plan", recipe, "--clips", "2")
    assert result.returncode == 2
    assert (
        "the clips: got 2 that are all bad, need one that decodes, to stand for the 1 that were not read"
        in result.stderr
    )
    assert json.loads(cvft_ok("plan", recipe, "--json").stdout)["quarantined"]["rows"] == 3


def test_rows_of_which_none_has_a_good_clip_are_refused_before_training(tmp_path):
    (tmp_path / "bad.mp4").write_bytes(real_clip("bikes.mp4").read_bytes()[:9000])
    bad = {"query": "q", "response": "r", "videos": [str(tmp_path / "bad.mp4")]}
    good = with_real_clips(ROWS)
    for number, (rows, val_rows, setting) in enumerate(
        [([bad] * 2, good, "data.train"), (good, [bad] * 2, "data.val")]
    ):
        folder = tmp_path / f"{number}"
        recipe = make_project(folder, rows=rows, val_rows=val_rows, data={"on_bad_clip": "quarantine"})
        before = files_under(folder)
        for command in ("plan", "run"):
            result = cvft(command, recipe)
            assert result.returncode == 2
            got = f"the rows that are left has 1 problem\n  {setting}: got 2 rows in {folder}/"
            assert got in result.stderr.replace("\r", "\n"), result.stderr
            assert "of which not one has a good clip, need rows that can be used" in result.stderr
            assert files_under(folder) == before
