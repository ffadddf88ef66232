"""The whole job with Qwen's models on real clips: train, merge, verify, evaluate, open elsewhere."""

import json

import pytest
from safetensors.torch import load_file

from cvft.cli.main import main
from cvft.errors import CvftError
from cvft.plan.job import open_job
from cvft.recipe import load_recipe
from tests.plain_transformers import assert_same_answers_without_cvft, predictions_of
from tests.project import cvft, cvft_ok, make_project
from tests.qwen_tiny import make_qwen_folder
from tests.real_clips import real_clip
from tests.test_train_run import losses_of

KINDS = ("qwen3_vl", "qwen2_5_vl", "qwen3_5", "qwen3_vl_moe", "qwen3_5_moe")
VIDEO = {"max_frames": 8, "min_frame_tokens": 4, "max_frame_tokens": 12}
LORA = {"targets": "all-linear", "dropout": 0.0}


def make_job(folder, kind, **sections):
    base = make_qwen_folder(folder / kind, kind)
    (base / "preprocessor_config.json").write_text("{}")  # what serving engines read; it has to come along
    model = {"path": str(base), "dtype": "fp32"}
    video = {**VIDEO, **sections.pop("video", {})}
    optim = {"learning_rate": 5e-3}
    return make_project(folder, model=model, video=video, lora=LORA, optim=optim, **sections)


@pytest.fixture(
    scope="module",
    params=[kind if kind == "qwen3_vl" else pytest.param(kind, marks=pytest.mark.long) for kind in KINDS],
)
def done(request, tmp_path_factory):
    """A run of the whole job, its recipe and what it said."""
    recipe = make_job(tmp_path_factory.mktemp(request.param), request.param)
    return request.param, recipe, cvft_ok("run", recipe)


def run_of(recipe):
    return recipe.parent / "runs" / "small"


def test_the_whole_job_runs(done):
    _, recipe, said = done
    losses = losses_of(recipe)
    assert losses[-1] < losses[0]
    verified = json.loads((run_of(recipe) / "merged" / "cvft_verification.json").read_text())
    assert verified["logits"]["num_equal_answers"] == verified["logits"]["num_rows"] == 3
    metrics = json.loads((run_of(recipe) / "eval" / "merged" / "metrics.json").read_text())
    assert metrics["metrics"]["num_rows"] == 3
    assert "features  each clip is encoded once" in said.stderr
    assert (run_of(recipe) / "report.html").is_file()


def test_what_was_between_a_row_and_the_model_is_stated(done):
    kind, recipe, _ = done
    contract = json.loads((run_of(recipe) / "merged" / "cvft_contract.json").read_text())
    assert (contract["sampling"], contract["fps"], contract["min_frames"], contract["max_frames"]) == ("fps", 2.0, 4, 8)
    assert (contract["min_frame_tokens"], contract["max_frame_tokens"], contract["max_clip_tokens"]) == (4, 12, 115200)
    assert (contract["text_positions"], contract["grid_seconds"], contract["clip_tags"]) == (
        "released",
        "exact",
        "released",
    )
    assert contract["system"] == ("You are a helpful assistant." if kind == "qwen2_5_vl" else "")


def test_it_is_handed_over_with_the_answers_of_its_evaluation(done, tmp_path):
    kind, recipe, _ = done
    assert (
        main(["handover", "vllm", str(run_of(recipe)), "--max-new-tokens", "8", "--output", str(tmp_path / "new")]) == 0
    )
    head, *rows = map(json.loads, (tmp_path / "new" / "reference.jsonl").read_text().splitlines())
    assert head["model"] == "small"
    assert [row["answer"] for row in rows] == [row["prediction"] for row in predictions_of(run_of(recipe))]
    has_system = rows[0]["request"]["messages"][0]["role"] == "system"
    assert has_system == (kind == "qwen2_5_vl")


def test_the_merged_folder_answers_the_same_in_plain_transformers(done, tmp_path):
    _, recipe, _ = done
    assert_same_answers_without_cvft(run_of(recipe), tmp_path)


def test_answers_of_the_command_line_are_those_of_the_evaluation(done):
    _, recipe, _ = done
    rows = predictions_of(run_of(recipe))
    said = cvft_ok(
        *("infer", "--model", run_of(recipe) / "merged", "--max-new-tokens", 8),
        *("--video", rows[0]["videos"][0], "--query", rows[0]["query"]),
    )
    assert said.stdout.strip() == rows[0]["prediction"]


def test_a_tower_that_trains_with_rows_without_clips(tmp_path):
    recipe = make_job(tmp_path, "qwen3_vl", parallel={"strategy": "ddp", "num_gpus": 2})
    cvft_ok("train", recipe, "lora.train_vision_tower=true", "lora.train_projector=true")
    trained = load_file(run_of(recipe) / "adapter" / "adapter_model.safetensors")
    on_tower = [value for name, value in trained.items() if ".visual.blocks." in name and "lora_B" in name]
    assert on_tower
    assert all(value.any() for value in on_tower)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """A recipe of which nothing is trained."""
    return make_job(tmp_path_factory.mktemp("planned"), "qwen3_vl")


@pytest.mark.parametrize("learns", ["true", "full"])
def test_a_projector_that_learns_is_not_left_out_for_cached_features(recipe, learns):
    job = open_job(load_recipe(recipe, overrides=[f"lora.train_projector={learns}"]), needs_weights=False)
    assert job.forbids_features == "lora.train_projector"
    if learns == "full":  # pixels in their place
        assert " clips decoded, " in cvft_ok("features", recipe, f"lora.train_projector={learns}").stdout


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["model.template=vqa"], "model.template: got `vqa`, need `auto` or `chat`: Qwen3-VL has one"),
        (["video.sampling=base"], "video.sampling: got `base`, need `auto`, `fps` or `uniform`"),
        (["model.text_positions=transformers5"], "model.text_positions: got `transformers5`, need `released`"),
        (["model.rope_precision=fp32"], "model.rope_precision: got `fp32`, need `checkpoint`: Qwen3-VL has no such"),
        (
            ["video.cache_features=on", "lora.train_projector=true"],
            "video.cache_features: got `on` with `lora.train_projector` true, need `auto`, `pixels` or `off`",
        ),
        (["lora.targets=[qkv_proj]"], "hint: `qkv_proj` is `qkv` here; write `lora.targets: qkv`"),
        (
            ["video.sampling=uniform", "video.fps=1"],
            "video.fps: got `1.0`, need no such setting with sampling `uniform`",
        ),
    ],
)
def test_settings_that_cannot_be_are_refused(recipe, settings, said):
    with pytest.raises(CvftError) as raised:
        open_job(load_recipe(recipe, overrides=settings), needs_weights=False)
    assert said in str(raised.value)


def test_other_frames_than_in_training_are_refused(done):
    _, recipe, _ = done
    result = cvft("eval", run_of(recipe), "video.max_frame_tokens=16")
    assert result.returncode == 2
    assert "video.max_frame_tokens: got `16`, need" in result.stderr


def test_a_clip_of_any_length_is_shown_whole(recipe):
    said = cvft_ok("plan", recipe)
    assert "per second, in place of 2" in said.stdout + said.stderr
    assert real_clip("bikes.mp4").is_file()
