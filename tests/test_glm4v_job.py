"""The whole job with a model of GLM-4.1V's shape on real clips: train, merge, verify, evaluate, open elsewhere."""

import json

import pytest

from tests.glm4v_tiny import make_glm4v_folder
from tests.plain_transformers import assert_same_answers_without_cvft
from tests.project import cvft_ok, make_project
from tests.test_qwen_job import LORA, run_of
from tests.test_train_run import losses_of


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A run of the whole job, its recipe and what it said."""
    folder = tmp_path_factory.mktemp("glm4v")
    model = {"path": str(make_glm4v_folder(folder / "model")), "dtype": "fp32"}
    video = {"max_frames": 6, "max_clip_tokens": 36}
    recipe = make_project(folder, model=model, video=video, lora=LORA, optim={"learning_rate": 5e-3})
    return recipe, cvft_ok("run", recipe)


def test_the_whole_job_runs(done):
    recipe, said = done
    losses = losses_of(recipe)
    assert losses[-1] < losses[0]
    verified = json.loads((run_of(recipe) / "merged" / "cvft_verification.json").read_text())
    assert verified["logits"]["num_equal_answers"] == verified["logits"]["num_rows"] == 3
    contract = json.loads((run_of(recipe) / "merged" / "cvft_contract.json").read_text())
    assert (contract["sampling"], contract["fps"], contract["max_clip_tokens"]) == ("fps", 2.0, 36)
    assert "features  each clip is encoded once" in said.stderr


def test_the_merged_folder_answers_the_same_in_plain_transformers(done, tmp_path):
    recipe, _ = done
    assert_same_answers_without_cvft(run_of(recipe), tmp_path)
