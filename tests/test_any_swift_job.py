"""The whole job with models that are trained through ms-swift's templates, on real clips: as for every other family."""

import json
from contextlib import closing

import pytest

from cvft.predict.open import open_trained
from tests.any_swift_tiny import KINDS, make_any_swift_folder
from tests.plain_transformers import assert_same_answers_without_cvft, predictions_of, prompt_of
from tests.project import cvft_ok, make_project
from tests.test_qwen_job import LORA, run_of
from tests.test_train_run import losses_of

GROUPED = ("llava_onevision",)
"""Kinds whose rows train together, where their model proves equal."""


@pytest.fixture(scope="module", params=[k if k in GROUPED else pytest.param(k, marks=pytest.mark.long) for k in KINDS])
def done(request, tmp_path_factory):
    """A run of the whole job, its recipe and what it said."""
    folder = tmp_path_factory.mktemp(request.param)
    model = {"path": str(make_any_swift_folder(folder / "model", request.param)), "dtype": "fp32"}
    video, optim = {"max_frames": 2}, {"learning_rate": 5e-3}
    train = {"group_by_clip": "on"} if request.param in GROUPED else {}
    recipe = make_project(folder, model=model, lora=LORA, optim=optim, video=video, train=train)
    return request.param, recipe, cvft_ok("run", recipe)


def test_the_whole_job_runs(done):
    kind, recipe, said = done
    losses = losses_of(recipe)
    assert losses[-1] < losses[0]
    verified = json.loads((run_of(recipe) / "merged" / "cvft_verification.json").read_text())
    assert verified["logits"]["num_equal_answers"] == verified["logits"]["num_rows"] == 3
    metrics = json.loads((run_of(recipe) / "eval" / "merged" / "metrics.json").read_text())
    assert metrics["metrics"]["num_rows"] == 3
    assert (run_of(recipe) / "report.html").is_file()
    proven = "groups    rows of one clip train together: two rows of its first shared clip" in said.stderr
    assert proven == (kind in GROUPED) == ("grouped by clip with at most 2 rows a group" in said.stderr)
    assert "features  each clip may be encoded once: from its cached features, a row has the loss" in said.stderr
    assert "features  each clip is encoded once and cached" in said.stderr
    assert "note      each frame is handed over as an image of its own" in said.stderr


def test_what_was_between_a_row_and_the_model_is_stated(done):
    kind, recipe, _ = done
    contract = json.loads((run_of(recipe) / "merged" / "cvft_contract.json").read_text())
    assert contract["template"].startswith(kind.partition("_")[0])
    assert (contract["sampling"], contract["max_frames"]) == ("uniform", 2)
    assert "<image>" in contract["frames"]
    assert contract["swift_version"]
    assert contract["transformers_version"]


def test_lengths_were_known_before_training(done):
    """The process that lays rows out saw blank frames; the real ones take as many tokens."""
    _, recipe, _ = done
    shapes = json.loads((run_of(recipe) / "data" / "row_shapes.json").read_text())
    rows = predictions_of(run_of(recipe))
    with closing(open_trained(run_of(recipe) / "merged")) as predictor:
        for shape, line in zip(shapes["val"], rows, strict=True):
            prompt = prompt_of(predictor, line["videos"][0], line["query"])
            asked = shape["num_prefix_tokens"] + shape["num_question_tokens"] - shape["num_label_tokens"]
            assert prompt["input_ids"].shape[1] == asked
            assert sum(shape["num_clip_tokens"]) > 0


def test_the_merged_folder_answers_the_same_in_plain_transformers(done, tmp_path):
    _, recipe, _ = done
    assert_same_answers_without_cvft(run_of(recipe), tmp_path)
