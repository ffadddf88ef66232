"""A run that knows its rows by heart, trained once for all test files and processes that read one; each works on a copy."""

import shutil
from pathlib import Path

import pytest
from filelock import FileLock

from tests.project import cvft_ok, make_project

LONG_ENOUGH = {"max_steps": 100, "save_steps": 100, "eval_steps": 100, "global_batch_rows": 6, "micro_batch_rows": 6}
"""Until the rows are known by heart: the answers of a half-trained model hang on the last bit of a logit."""


def copy_of_trained_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the recipe of a finished `cvft run`, in a folder of the caller's own; the run is `runs/small` beside it."""
    shared = tmp_path_factory.getbasetemp()
    shared = (shared.parent if shared.name.startswith("popen-") else shared) / "trained"
    with FileLock(f"{shared}.lock"):
        if not shared.is_dir():
            making = shared.with_name("trained.partial")
            shutil.rmtree(making, ignore_errors=True)
            recipe = make_project(
                making,
                lora={"targets": "all-linear", "rank": 8, "alpha": 16, "dropout": 0.0},
                optim={"learning_rate": 3e-3, "adam_beta2": 0.99, "weight_decay": 0.0},
                train=LONG_ENOUGH,
            )
            assert "val exact match" in cvft_ok("run", recipe).stdout
            making.rename(shared)
    own = tmp_path_factory.mktemp("copy") / "project"
    shutil.copytree(shared, own, symlinks=True)
    for path in (
        own / "small.yaml",
        own / "runs" / "small" / "recipe.yaml",
        own / "runs" / "small" / "adapter" / "recipe.yaml",
    ):
        path.write_text(path.read_text().replace(str(shared.with_name("trained.partial")), str(own)))
    return own / "small.yaml"
