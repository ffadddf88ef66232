"""A run that is killed, file operation by file operation, ends like one that was left alone, and nothing is left behind.

The hook below kills the command before one of its file operations. Each start is killed further on than the one before, all in
one folder: none may find a dead end in what the others have left. `CVFT_NUM_MOMENTS=40` tries that many.
"""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cvft.files import hash_file
from tests.project import HANG_S, files_under, make_project

NUM_MOMENTS = int(os.environ.get("CVFT_NUM_MOMENTS", "3"))

HOOK = """
import os, signal, sys

ROOT, LIST, LAST = (os.environ.get(name) for name in ("KILL_ROOT", "KILL_LIST", "KILL_BEFORE"))
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.symlink", "os.link", "os.truncate"}


def hook(event, args):
    is_write = event == "open" and isinstance(args[2], int) and args[2] & WRITES
    if not (is_write or event in CHANGES) or isinstance(args[0], int):
        return
    path = os.fsdecode(args[0])
    if not path.startswith(ROOT):
        return
    operation = f"{event} {path.removeprefix(ROOT).replace(str(os.getpid()), 'PID')}"
    if operation == LAST:
        os.kill(os.getpid(), signal.SIGKILL)
    if LIST:
        with open(LIST, "a") as file:
            print(operation, file=file)


if ROOT and "cvft" in sys.orig_argv and "run" in sys.orig_argv:  # the command itself, not what it starts
    sys.addaudithook(hook)
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("kills")
    (folder / "hook").mkdir()
    (folder / "hook" / "sitecustomize.py").write_text(HOOK)
    return make_project(
        folder, train={"max_steps": 2, "save_steps": 1, "eval_steps": 2}, eval={"max_new_tokens": 2, "batch_rows": 3}
    )


def run(recipe: Path, name: str, **variables: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(recipe.parent / "hook"), *filter(None, [os.environ.get("PYTHONPATH")])])
    root = str(recipe.parent / "runs" / name)
    environment = {**os.environ, "PYTHONPATH": path, "KILL_ROOT": root, **variables}
    command = [sys.executable, "-m", "cvft", "run", str(recipe), f"name={name}"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=HANG_S, check=False)


def results(recipe: Path, name: str) -> dict[str, object]:
    folder = recipe.parent / "runs" / name
    metrics = {path.parent.name: json.loads(path.read_text())["metrics"] for path in folder.glob("eval/*/metrics.json")}
    weights = [folder / part for part in ("adapter/adapter_model.safetensors", "merged/model.safetensors")]
    # names of scratch files and of TensorBoard's hold times and hashes of paths
    files = [re.sub(rf"{name}|[0-9a-f]{{16,}}|tfevents.*", "#", file) for file in files_under(folder)]
    return {"metrics": metrics, "weights": [hash_file(path) for path in weights], "files": sorted(files)}


def test_killed_before_any_file_operation_a_run_ends_like_one_that_was_left_alone(recipe):
    listed = recipe.parent / "operations"
    straight = run(recipe, "straight", KILL_LIST=str(listed))
    assert straight.returncode == 0, straight.stderr[-3000:]
    operations = list(dict.fromkeys(listed.read_text().splitlines()))
    assert len(operations) > 60
    for number in range(NUM_MOMENTS):
        operation = operations[number * (len(operations) - 1) // max(NUM_MOMENTS - 1, 1)]
        result = run(recipe, "killed", KILL_BEFORE=operation)
        assert result.returncode == -signal.SIGKILL, (operation, result.stderr[-3000:])
    ended = run(recipe, "killed")
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert results(recipe, "killed") == results(recipe, "straight")
    assert {path.name for path in (recipe.parent / "runs").iterdir()} == {"straight", "killed", ".clips", ".features"}
