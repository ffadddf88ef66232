"""Vision features in use: the bits that the tower computes live, built once, read by trainings and evaluations."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cvft.clips.build import BuildSource, build_store, missing_clips
from cvft.clips.provide import share_of
from cvft.clips.source import CachedClips, DecodedClips
from cvft.data.features.key import FeatureKey
from cvft.data.features.store import FeatureStore
from cvft.data.records import ClipRecord
from cvft.data.video.loader import DecodeSettings
from cvft.data.video.view import ClipView
from cvft.errors import ClipError, FeatureError, ModelError
from cvft.families.cogvlm2_video.network.load import load_model, load_tower
from cvft.families.cogvlm2_video.runtime import RUNTIME
from cvft.families.cogvlm2_video.tensors import PARTS
from cvft.families.family import Preprocessing
from cvft.files import hash_file
from cvft.plan.job import open_job
from cvft.recipe import load_recipe
from cvft.weights.folder import ModelFolder, tower_fingerprint
from tests.project import cvft, cvft_ok, make_project
from tests.real_clips import real_clip
from tests.tiny import TINY, copy_tiny, tiny_encoder, tiny_processor

DECODE = DecodeSettings.of("chat", max_frames=24, decoder="pyav")
CLIPS = ("bikes.mp4", "carphone_pristine.mp4")
HOW = Preprocessing("chat", DECODE, max_tokens=2048)
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16}
OUR_NAMES = {"F32": "fp32", "BF16": "bf16"}


def tower_source(dtype: str = "F32") -> BuildSource:
    return BuildSource(RUNTIME, ModelFolder.of(TINY), HOW, dtype=OUR_NAMES[dtype], device="cpu", num_workers=1)


def make_store(root: Path, dtype: str) -> FeatureStore:
    key = FeatureKey(
        sampling="chat",
        max_frames=24,
        decoder="pyav",
        decoder_version="17",
        fields={"image_size_px": 56},
        tower_sha256=tower_fingerprint(TINY, PARTS.tower),
        dtype=dtype,
        device="cpu",
        attention="sdpa",
    )
    return FeatureStore(root, key)


def records_of(*names: str) -> dict[Path, ClipRecord]:
    records = {}
    for name in names:
        source = DecodedClips(tiny_encoder(), DECODE)
        records[real_clip(name)] = ClipRecord(hash_file(real_clip(name)), source.load(real_clip(name)).view)
        source.close()
    return records


@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_cached_features_are_the_bits_that_the_model_computes_in_a_batch(tmp_path, dtype):
    store, records, processor = make_store(tmp_path, dtype), records_of(*CLIPS), tiny_processor()
    built = build_store(store, list(records), records=records, source=tower_source(dtype))
    assert built == 2
    assert missing_clips(store, records) == []
    live, cached = DecodedClips(tiny_encoder(), DECODE), CachedClips(store, records)
    model = load_model(TINY, dtype=DTYPES[dtype])
    bare = load_model(TINY, dtype=DTYPES[dtype], with_tower=False)
    assert not any("transformer" in name or "conv" in name for name in bare.state_dict())
    computed = []

    def note(module, args, out):
        assert not torch.is_autocast_enabled("cpu")
        computed.append(out.flatten(2).mT)

    model.requires_grad_(False).model.vision.conv.register_forward_hook(note)
    logits = []
    for source, of_model in ((live, model), (cached, bare)):
        rows = []
        for path in records:
            clip = source.load(path)
            rows.append(
                processor.encode("What is shown?", **clip.tensors, time_indices=range(len(clip.view.timestamps_s)))
            )
        batch = {key: value for key, value in processor.collate(rows).items() if key != "labels"}
        # as the trainer does: a frozen tower must compute the same bits under autocast
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == "BF16"):
            logits.append(of_model(**batch).logits)
    live.close()
    for path, features in zip(records, computed, strict=True):
        assert torch.equal(cached.load(path).tensors["vision_features"], features)
    assert torch.equal(*logits)


def test_a_model_without_its_tower_says_so():
    bare = load_model(TINY, dtype=torch.float32, with_tower=False)
    row = tiny_processor().encode("What?", pixel_values=torch.zeros(1, 3, 56, 56), time_indices=[0])
    batch = tiny_processor().collate([row])
    with pytest.raises(ValueError, match="loaded without its vision tower: give vision_features"):
        bare(**{key: value for key, value in batch.items() if key != "labels"})


def test_a_projector_learns_without_the_tower_and_rows_without_clips_pass_through_it():
    bare = load_model(TINY, dtype=torch.float32, with_tower=False)
    projector = bare.model.vision.linear_proj
    row = tiny_processor().encode("Say.", response="yes")
    batch = tiny_processor().collate([row])
    for passes_always in (False, True):
        bare.zero_grad()
        bare.model.runs_tower_always = passes_always
        bare(**batch, label_logits_only=True).loss.backward()
        gradient = projector.linear_proj.weight.grad
        assert (gradient is not None) == passes_always
    assert not gradient.any()


def test_the_tower_alone_is_the_tower_of_the_model():
    tower, model = load_tower(TINY, dtype=torch.float32), load_model(TINY, dtype=torch.float32)
    of_model = model.model.vision.state_dict()
    assert all(torch.equal(weight, of_model[name]) for name, weight in tower.state_dict().items())
    assert not any(parameter.requires_grad for parameter in tower.parameters())


def change_tensor(folder: Path, name: str, value: float | None) -> None:
    """Writes one element of a tensor anew, or leaves the tensor out."""
    from safetensors.torch import save_file

    weights = load_file(folder / "model.safetensors")
    weight = weights.pop(name)
    if value is not None:
        weight.view(-1)[0] = value
        weights[name] = weight
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_the_fingerprint_of_a_tower_is_that_of_the_tower_only(tmp_path):
    folder = copy_tiny(tmp_path / "model")
    before = tower_fingerprint(folder, PARTS.tower)
    assert before == tower_fingerprint(TINY, PARTS.tower)
    for name in (
        "lm_head.weight",
        "model.vision.linear_proj.linear_proj.weight",
        "model.layers.0.mlp.language_mlp.up_proj.weight",
    ):
        change_tensor(folder, name, 3.0)
        assert tower_fingerprint(folder, PARTS.tower) == before
    change_tensor(folder, "model.vision.conv.bias", 3.0)
    assert tower_fingerprint(folder, PARTS.tower) != before
    change_tensor(folder, "model.vision.conv.bias", None)
    with pytest.raises(ModelError, match=r"weights: got `model\.vision\.conv\.bias` missing"):
        load_tower(folder, dtype=torch.float32)


def test_a_clip_that_changed_since_its_check_is_refused(tmp_path):
    records = {real_clip("bikes.mp4"): ClipRecord("0" * 64, ClipView((0.0,)))}
    store = make_store(tmp_path, "F32")
    with pytest.raises(ClipError, match="another file by now"):
        build_store(store, list(records), records=records, source=tower_source())
    assert len(store) == 0


def test_a_build_that_is_asked_to_stop_keeps_what_it_has(tmp_path):
    store, records = make_store(tmp_path, "F32"), records_of(*CLIPS)
    asked = iter([False, True])
    built = build_store(store, list(records), records=records, source=tower_source(), must_stop=lambda: next(asked))
    assert built == 1
    assert len(missing_clips(store, records)) == 1  # which of the two was decoded first is chance


def test_ranks_share_the_clips_whatever_the_store_lacks_when_each_of_them_looks():
    records = {Path(f"{number}.mp4"): ClipRecord(f"{number % 7:064x}", ClipView((0.0,))) for number in range(10)}
    shares = [share_of(records, rank=rank, num_ranks=3) for rank in range(3)]
    assert sum(map(len, shares)) == len(records)
    assert {path: record for share in shares for path, record in share.items()} == records
    of_ranks = [{record.sha256 for record in share.values()} for share in shares]
    assert [len(clips) for clips in of_ranks] == [3, 2, 2]
    assert not of_ranks[0] & of_ranks[1] | of_ranks[0] & of_ranks[2] | of_ranks[1] & of_ranks[2]


def test_a_flipped_bit_is_told_when_it_is_read(tmp_path):
    store, records = make_store(tmp_path, "F32"), records_of("bikes.mp4")
    build_store(store, list(records), records=records, source=tower_source())
    (shard,) = store.folder.glob("*.safetensors")
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(FeatureError, match=r"do not match their checksum(.|\n)*cvft features RECIPE"):
        CachedClips(make_store(tmp_path, "F32"), records).load(real_clip("bikes.mp4"))


# whole runs


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    return make_project(tmp_path_factory.mktemp("features"), train={"save_steps": 4, "eval_steps": 4})


def run_folder(recipe: Path, name: str) -> Path:
    return recipe.parent / "runs" / name


def adapter_of(recipe: Path, name: str) -> bytes:
    return (run_folder(recipe, name) / "adapter" / "adapter_model.safetensors").read_bytes()


def shards(recipe: Path) -> list[Path]:
    return sorted((recipe.parent / "runs" / ".features").glob("*/shard-*.safetensors"))


@pytest.fixture(scope="module")
def live(recipe) -> str:
    result = cvft_ok("run", recipe, "name=live", "video.cache_features=off")
    assert "features  not cached" in result.stderr
    assert not shards(recipe)
    return "live"


def test_a_run_from_features_ends_with_the_bits_of_a_live_one(recipe, live):
    result = cvft_ok("run", recipe, "name=kept")
    assert "each clip is encoded once and cached" in result.stderr
    assert len(shards(recipe)) == 1
    assert adapter_of(recipe, "kept") == adapter_of(recipe, live)
    for model in ("base", "merged"):
        of_runs = [run_folder(recipe, name) / "eval" / model / "predictions.jsonl" for name in ("kept", live)]
        assert of_runs[0].read_bytes() == of_runs[1].read_bytes()
    plan = json.loads((run_folder(recipe, "kept") / "plan.json").read_text())
    assert plan["worker"]["features"]["tower_sha256"] == tower_fingerprint(TINY, PARTS.tower)


def test_a_truncated_shard_is_named_and_built_again(recipe, live):
    cvft_ok("features", recipe, "name=ahead")
    (shard,) = shards(recipe)
    shard.write_bytes(shard.read_bytes()[:-10])
    result = cvft_ok("train", recipe, "name=mended")
    assert str(shard) in result.stderr
    assert "its clips are encoded again" in result.stderr
    assert shard not in shards(recipe)
    assert adapter_of(recipe, "mended") == adapter_of(recipe, live)


def test_what_changes_features_gets_a_store_of_its_own(recipe):
    def digest(*overrides, folder=TINY, device="cpu"):
        job = open_job(load_recipe(recipe, overrides=[f"model.path={folder}", *overrides]))
        return replace(job, ranks=replace(job.ranks, device=device)).feature_key.digest()

    other = copy_tiny(recipe.parent / "other_tower")
    change_tensor(other, "model.vision.conv.bias", 3.0)
    changes = ("video.sampling=uniform", "video.max_frames=3", "video.decoder=decord", "model.dtype=bf16")
    digests = [digest(), digest(device="cuda"), digest(folder=other), *map(digest, changes)]
    assert len(set(digests)) == len(digests)
    same = ("lora.rank=2", "seed=1", "model.template=vqa", "video.sampling=chat", "train.group_by_clip=off")
    assert {digest(change) for change in same} == {digest()}


def test_two_builds_at_once_end_with_one_store(tmp_path):
    recipe = make_project(tmp_path)
    command = [sys.executable, "-m", "cvft", "features", str(recipe), "name=both"]
    builds = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = sorted(build.communicate()[0].split(";")[0] for build in builds)
    assert [build.returncode for build in builds] == [0, 0]
    assert said == ["0 clips encoded, 2 were there", "2 clips encoded, 0 were there"]
    assert len(shards(recipe)) == 1
    assert cvft_ok("features", recipe, "name=both").stdout.startswith("0 clips encoded, 2 were there")
    assert not list(tmp_path.glob("runs/both*"))


def test_features_of_a_tower_that_learns_are_refused_and_so_is_making_what_nobody_keeps(recipe):
    learning = ("lora.targets=all-linear", "lora.train_vision_tower=true")
    result = cvft("train", recipe, *learning, "video.cache_features=on")
    assert result.returncode == 2
    assert "got `on` with `lora.train_vision_tower` true, need `auto`, `pixels` or `off`" in result.stderr
    result = cvft("features", recipe, "video.cache_features=off")
    assert "video.cache_features: got `off`, need a recipe that keeps something of clips" in result.stderr
    result = cvft("features", recipe, "video.cache_limit_gb=1e-6")
    assert "video.cache_features: got `auto`, need `on` or `pixels`: features would take" in result.stderr
