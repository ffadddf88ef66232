"""Twenty steps of each family on real clips, with groups and cached features: in one process, killed and resumed, on two ranks.

Every step holds all rows, so that rows apart and rows in groups meet in the same steps.
"""

import pytest
import torch

from cvft.families.table import find_family
from cvft.weights.folder import ModelFolder
from tests.opened import MAKERS
from tests.project import ROWS, cvft_ok, make_project
from tests.test_train_interruptions import adapter_of, kill_tree, num_steps_reported, start, train_folder, wait_until
from tests.test_train_ranks import logged
from tests.test_train_run import losses_of

VIDEO = {
    "qwen3_vl": {"max_frames": 8, "min_frame_tokens": 4, "max_frame_tokens": 12},
    "qwen2_5_vl": {"max_frames": 8, "min_frame_tokens": 4, "max_frame_tokens": 12},
    "qwen3_5": {"max_frames": 8, "min_frame_tokens": 4, "max_frame_tokens": 12},
    "internvl3_5": {"max_frames": 4},
    "glm4v": {"max_frames": 6, "max_clip_tokens": 36},
    "llava_onevision": {"max_frames": 2},
    "idefics3": {"max_frames": 2},
}
"""What each kind is trained on."""


KINDS = [kind if kind == "qwen3_vl" else pytest.param(kind, marks=pytest.mark.long) for kind in VIDEO]
"""One whenever tests run; the others, also those that ms-swift's templates feed, before a release."""

TRAIN = {
    "max_steps": 20,
    "global_batch_rows": len(ROWS),
    "micro_batch_rows": len(ROWS) // 2,
    "group_by_clip": "on",
    "save_steps": 2,
    "eval_steps": 10,
    "num_workers": 1,
}
TOLERANCE = 1e-5
"""Of a loss over twenty steps, in fp32."""
APART_TOLERANCE = 1e-4
"""The same where rows train apart: their products round otherwise, and twenty steps at this rate make more of it, on some CPUs
3e-5 with Qwen3.5. That the two are equal is held in fp64 by `test_families_groups.py`; a wrong gradient was off by 7e-2 here."""


@pytest.fixture(scope="module")
def straight(request, tmp_path_factory):
    """A recipe whose training ran from start to end in one process."""
    folder, kind = tmp_path_factory.mktemp(request.param), request.param
    base = MAKERS[kind](folder / "model", kind)
    recipe = make_project(
        folder,
        model={"path": str(base), "dtype": "fp32"},
        video=VIDEO[kind],
        lora={"targets": "all-linear", "dropout": 0.0},
        optim={"learning_rate": 5e-3},
        train=TRAIN,
    )
    said = cvft_ok("train", recipe, "name=straight").stderr
    assert "grouped by clip with at most 2 rows a group" in said
    caches = find_family(ModelFolder.of(base)).capabilities.features
    assert ("features  each clip is encoded once" in said) == bool(caches)
    losses = losses_of(recipe, "straight")
    assert len(losses) == 20
    assert losses[-1] < losses[0] - 0.1
    return recipe


def assert_same_losses(recipe, name, *, tolerance=TOLERANCE):
    for key in ("loss", "eval_loss"):
        assert logged(recipe, name, key) == pytest.approx(logged(recipe, "straight", key), abs=tolerance), key


@pytest.mark.parametrize("straight", KINDS, indirect=True)
def test_two_ranks_train_what_one_process_trains(straight):
    said = cvft_ok("train", straight, "name=ranks", "parallel.strategy=zero2", "parallel.num_gpus=2").stderr
    assert "x 2 ranks" in said
    assert "grouped by clip with at most 2 rows a group" in said
    assert_same_losses(straight, "ranks")


@pytest.mark.parametrize("straight", KINDS, indirect=True)
def test_rows_apart_and_live_clips_train_the_same(straight):
    cvft_ok("train", straight, "name=apart", "train.group_by_clip=off", "video.cache_features=off")
    assert_same_losses(straight, "apart", tolerance=APART_TOLERANCE)


@pytest.mark.parametrize("straight", KINDS, indirect=True)
def test_a_killed_training_resumes_to_the_same_bits(straight):
    folder = train_folder(straight, "killed")
    process = start(straight, name="killed")
    assert wait_until(lambda: num_steps_reported(folder) >= 3, process)
    kill_tree(process)
    assert num_steps_reported(folder) < 20
    said = cvft_ok("train", straight, "name=killed").stderr
    assert "resume    checkpoint-" in said
    ours, theirs = adapter_of(straight, "killed"), adapter_of(straight, "straight")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
