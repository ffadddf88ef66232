"""Pixels kept in place of features: the tower gets the bits that it gets of a decoded clip, and a second run decodes nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cvft.clips.build import BuildSource, build_store, missing_clips
from cvft.clips.source import ClipInputs, DecodedClips, KeptClip, PixelClips
from cvft.data.features.store import FeatureStore
from cvft.data.records import ClipRecord
from cvft.data.rows import Row
from cvft.data.video.decode import Clip
from cvft.families.runtime import Loading, load_runtime
from cvft.plan.job import open_job
from cvft.plan.prepare import prepare
from cvft.recipe import load_recipe
from tests.opened import MAKERS, Opened
from tests.project import cvft_ok, make_project
from tests.qwen_tiny import make_qwen_folder

LEARNING = ("lora.targets=all-linear", "lora.train_vision_tower=true")

KINDS = [kind for kind in MAKERS if kind != "qwen3_5_moe"]
"""That one is left to nobody: it is refused."""


@pytest.mark.parametrize("kind", KINDS)
def test_kept_frames_become_the_bits_of_decoded_ones_in_every_family(tmp_path, kind):
    opened, clips = Opened(tmp_path / "base", kind), []
    for height, width in ((64, 96), (301, 127)):
        frames = np.random.default_rng(7).integers(0, 256, (3, height, width, 3), dtype=np.uint8)
        clips.append(Clip(frames, np.arange(3, dtype=np.float32) / 2, (0, 1, 2), 3, 2.0, 1.5, "pyav"))
    picture = Clip(frames[:1], np.zeros(1, np.float32), (0,), 1, 1.0, 1.0, "pyav", has_own_times=True, is_image=True)
    for shown in (*clips, picture) if opened.encoder.takes_images else clips:
        kept = opened.encoder.frames_to_keep(shown)
        assert (kept.dtype, len(kept)) == (np.uint8, len(shown.frames))
        assert kept.shape[1:] == (*opened.family.kept_frames(opened.folder, opened.how).size_px(shown.view), 3)
        live, again = opened.encoder.clip(shown), opened.encoder.clip(KeptClip(kept, shown.view))
        assert live.keys() == again.keys()
        assert all(torch.equal(again[name], tensor) for name, tensor in live.items())


@pytest.fixture(scope="module", params=["tiny", "tiny-qwen3-vl"])
def job(request, tmp_path_factory):
    """A job on the shipped model of a family, about real clips."""
    folder = tmp_path_factory.mktemp(request.param)
    path = make_project(folder, model={"path": request.param}, video={"cache_features": "pixels"})
    return open_job(load_recipe(path))


def test_pixels_and_loss_are_the_bits_of_live_ones(job):
    prepared = prepare(job)
    records = {clip: ClipRecord(info.sha256, info.view) for clip, info in prepared.clips.items()}
    store, runtime = FeatureStore(job.features_root, job.pixel_key), load_runtime(job.family)
    source = BuildSource(runtime, job.model.folder, job.preprocessing, dtype="fp32", device="cpu")
    assert build_store(store, missing_clips(store, records), records=records, source=source) == len(records) == 2
    assert missing_clips(store, records) == []
    files = store.num_bytes() - prepared.row_facts.pixel_bytes
    assert 0 < files == 2**18  # the plan counts all but the header of the one file
    encoder = runtime.encoder(job.model.folder, job.preprocessing)
    live, kept = DecodedClips(encoder, job.preprocessing.decode), PixelClips(store, records, encoder)
    model = runtime.load(job.model.folder, job.preprocessing, Loading("fp32"))
    for clip in records:
        inputs: list[ClipInputs] = [each.load(clip) for each in (live, kept)]
        assert inputs[0].view == inputs[1].view
        assert inputs[0].tensors.keys() == inputs[1].tensors.keys()
        assert all(torch.equal(inputs[1].tensors[name], tensor) for name, tensor in inputs[0].tensors.items())
        row = Row("What is shown?", "a man", (), (clip,), source=Path(), line=1)
        with torch.no_grad():
            losses = [
                runtime.loss(model, encoder.collate([encoder.encode(row, [each], with_response=True)])).loss
                for each in inputs
            ]
        assert torch.equal(*losses)
        assert losses[0].isfinite()
    live.close()


def test_weights_of_the_tower_change_no_pixel_and_what_changes_frames_gets_a_store_of_its_own(tmp_path):
    base = make_qwen_folder(tmp_path / "base", "qwen3_vl")
    video = {"min_frame_tokens": 4, "max_frame_tokens": 16, "max_frames": 8}
    path = make_project(tmp_path, model={"path": str(base), "dtype": "fp32"}, video=video)

    def digest(*overrides):
        return open_job(load_recipe(path, overrides=list(overrides)), needs_weights=False).pixel_key.digest()

    (base / "model.safetensors").unlink()
    before = digest()
    make_qwen_folder(base, "qwen3_vl", seed=1)
    same = ("lora.rank=2", "model.dtype=bf16", "video.cache_features=on")
    assert {digest(change) for change in same} == {digest(), digest(*LEARNING)} == {before}
    changes = ("video.sampling=uniform", "video.max_frames=6", "video.fps=1", "video.max_frame_tokens=12")
    patch = json.loads((base / "config.json").read_text())
    patch["vision_config"]["spatial_merge_size"] *= 2
    digests = [before, *map(digest, (*changes, "video.min_frame_tokens=8", "video.max_clip_tokens=64"))]
    (base / "config.json").write_text(json.dumps(patch))
    digests.append(digest())
    assert len(set(digests)) == len(digests) == 8


# whole runs


BLIND = """
from cvft.data.video import process

def refuse(self, *args, **kwargs):
    raise SystemExit("a clip is decoded")

process.DecodeProcess.decode = refuse
"""
"""A `sitecustomize` for all processes of a run: none gets a frame of a decoder."""


@pytest.fixture
def blind(tmp_path) -> dict[str, str]:
    """An environment in which no clip can be decoded for its frames."""
    (tmp_path / "sitecustomize.py").write_text(BLIND)
    paths = [str(tmp_path), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def adapter_of(recipe: Path, name: str) -> bytes:
    return (recipe.parent / "runs" / name / "adapter" / "adapter_model.safetensors").read_bytes()


def test_a_training_of_the_tower_decodes_nothing_that_is_kept(tmp_path, blind):
    recipe = make_project(tmp_path / "job", train={"max_steps": 2})
    code = "from cvft.data.video.process import DecodeProcess; DecodeProcess().decode('any.mp4')"
    asked = subprocess.run([sys.executable, "-c", code], env=blind, capture_output=True, text=True, check=False)
    assert asked.stderr == "a clip is decoded\n"
    made = cvft_ok("features", recipe, *LEARNING).stdout
    assert made.startswith("2 clips decoded, 0 were there")
    said = cvft_ok("train", recipe, *LEARNING, "name=kept", env=blind).stderr
    assert "pixels    each clip is decoded once and cached in" in said
    assert "(2 are there)" in said


@pytest.mark.long
@pytest.mark.parametrize("model", ["tiny", "tiny-qwen3-vl"])
def test_runs_on_kept_pixels_end_with_the_bits_of_live_ones(tmp_path, blind, model):
    video = {"min_frame_tokens": 4, "max_frame_tokens": 16} if "qwen" in model else {}
    recipe = make_project(tmp_path / "job", model={"path": model}, video=video)
    said = cvft_ok("run", recipe, *LEARNING, "name=live", "video.cache_features=off").stderr
    assert "features  not cached: the tower encodes clips as they come" in said
    assert not list((recipe.parent / "runs").glob(".features/*"))
    said = cvft_ok("train", recipe, *LEARNING, "name=kept").stderr
    assert "pixels    each clip is decoded once and cached in" in said
    assert "(2 are there)" in cvft_ok("train", recipe, *LEARNING, "name=again", env=blind).stderr
    cvft_ok("export", recipe, *LEARNING, "name=again", env=blind)  # its verification lets the tower take part
    for variant in ("base", "merged"):
        cvft_ok("eval", recipe, *LEARNING, "name=again", "--model", variant, env=blind)
    assert adapter_of(recipe, "live") == adapter_of(recipe, "kept") == adapter_of(recipe, "again")
    predictions = [
        (recipe.parent / "runs" / name / "eval" / variant / "predictions.jsonl").read_bytes()
        for name in ("live", "again")
        for variant in ("base", "merged")
    ]
    assert predictions[:2] == predictions[2:]
