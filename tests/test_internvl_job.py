"""The whole job with a model of InternVL3.5's shape on real clips: train, merge, verify, evaluate, open elsewhere."""

import json

import pytest

from tests.internvl_tiny import make_internvl_folder
from tests.plain_transformers import assert_same_answers_without_cvft
from tests.project import cvft_ok, make_project
from tests.test_qwen_job import LORA, run_of
from tests.test_train_run import losses_of


def make_job(folder, **sections):
    model = {"path": str(make_internvl_folder(folder / "model", "internvl3_5")), "dtype": "fp32"}
    return make_project(folder, model=model, lora=LORA, optim={"learning_rate": 5e-3}, **sections)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A run of the whole job, its recipe and what it said."""
    recipe = make_job(tmp_path_factory.mktemp("internvl"), video={"max_frames": 4})
    return recipe, cvft_ok("run", recipe)


def test_the_whole_job_runs(done):
    recipe, said = done
    losses = losses_of(recipe)
    assert losses[-1] < losses[0]
    verified = json.loads((run_of(recipe) / "merged" / "cvft_verification.json").read_text())
    assert verified["logits"]["num_equal_answers"] == verified["logits"]["num_rows"] == 3
    metrics = json.loads((run_of(recipe) / "eval" / "merged" / "metrics.json").read_text())
    assert metrics["metrics"]["num_rows"] == 3
    assert "features  each clip is encoded once" in said.stderr
    assert (run_of(recipe) / "report.html").is_file()


def test_what_was_between_a_row_and_the_model_is_stated(done):
    recipe, _ = done
    contract = json.loads((run_of(recipe) / "merged" / "cvft_contract.json").read_text())
    assert (contract["sampling"], contract["max_frames"], contract["frame_px"]) == ("segments", 4, 56)
    assert (contract["pixel_mean"], contract["pixel_std"]) == ("0.485 0.456 0.406", "0.229 0.224 0.225")
    assert contract["system"] == ""


def test_the_merged_folder_answers_the_same_in_plain_transformers(done, tmp_path):
    recipe, _ = done
    said = assert_same_answers_without_cvft(run_of(recipe), tmp_path)
    assert "both are present in the checkpoints" not in said, "config.json says whether embeddings are tied"
