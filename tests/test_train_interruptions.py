"""Runs that are killed, stopped or starved: they end with the weights of a run that was left alone."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cvft.processes import LAUNCHER_VARIABLE
from cvft.recipe import load_recipe
from cvft.recipe.fingerprint import SAME_BITS
from cvft.train.checkpoints import ASIDE, find_checkpoints
from tests.project import cvft, cvft_ok, make_project

NUM_KILLS = int(os.environ.get("CVFT_NUM_KILLS", "3"))
"""Two ranks start slowly: they get three, or a third of these where that is more."""

TRAIN = {"max_steps": 24, "save_steps": 2, "keep_checkpoints": 2, "num_workers": 1}
"""Two steps are an epoch: every stop but the first falls into a later one, where a loader of the default's one process has
long drawn what it draws once. Dropout is on."""
TWO_RANKS = ("parallel.strategy=zero2", "parallel.num_gpus=2")
TIMEOUT_S = 1500
"""Catches what hangs; a busy machine may take long."""

COLLECTIVE_TIMEOUT_S = 1800
"""How long a rank waits for another one. Source: torch.distributed's default for gloo."""


def start(recipe: Path, *settings: str, name: str = "small") -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "cvft", "train", str(recipe), f"name={name}", *settings]
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, preexec_fn=heed_all_signals
    )


def heed_all_signals() -> None:
    """A shell script that starts these tests in the background has SIGINT ignored, and what is ignored is inherited."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def train_folder(recipe: Path, name: str = "small") -> Path:
    return recipe.parent / "runs" / name / "train"


def adapter_of(recipe: Path, name: str = "small") -> dict[str, torch.Tensor]:
    return load_file(recipe.parent / "runs" / name / "adapter" / "adapter_model.safetensors")


def largest_difference(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def wait_until(is_so: Callable[[], bool], process: subprocess.Popen[str]) -> bool:
    """Waits for something that a training does; False when it ended first."""
    deadline = time.monotonic() + TIMEOUT_S
    while process.poll() is None:
        if is_so():
            return True
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return False


def num_steps_reported(folder: Path) -> int:
    progress = folder / "progress.jsonl"
    lines = progress.read_text().splitlines() if progress.is_file() else []
    return json.loads(lines[-1]).get("step", 0) if lines else 0


def kill_tree(process: subprocess.Popen[str], children: list[int] | None = None) -> None:
    """Kills the worker, its ranks and its decoders at the same moment as the command that started them."""
    for pid in (process.pid, *(descendants(process.pid) if children is None else children)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.communicate()


def descendants(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            found += [child, *descendants(child)]
    return found


def assert_all_gone(pids: list[int]) -> None:
    """Decoders notice the end of their worker a moment later."""
    deadline = time.monotonic() + TIMEOUT_S
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def assert_everything_named_is_whole(folder: Path) -> None:
    for checkpoint in folder.glob("checkpoint-*"):
        assert (checkpoint / "cvft_checkpoint.json").is_file(), checkpoint
        state = json.loads((checkpoint / "trainer_state.json").read_text())
        assert f"checkpoint-{state['global_step']}" == checkpoint.name
        load_file(checkpoint / "adapter_model.safetensors")
        for file in (*checkpoint.rglob("*.pt"), *checkpoint.rglob("*.pth")):
            torch.load(file, weights_only=False)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    return make_project(tmp_path_factory.mktemp("interrupted"), train=TRAIN)


@pytest.fixture(scope="module")
def straight(recipe) -> dict[str, torch.Tensor]:
    """The adapter of a run that nobody disturbed."""
    cvft_ok("train", recipe, "name=straight")
    return adapter_of(recipe, "straight")


@pytest.fixture(scope="module")
def straight_on_two_ranks(recipe) -> dict[str, torch.Tensor]:
    cvft_ok("train", recipe, "name=straight2", *TWO_RANKS)
    return adapter_of(recipe, "straight2")


PROBES = [str(Path(__file__).parent.parent / "datasets" / "tiny_shapes" / "general.jsonl")]

CHANGED = {
    "data": {"check_workers": 1, "allow_hosts": ["clips.lan"], "max_download_mib": 5, "download_timeout_s": 9.5},
    "export": {"checkpoint": 24, "merge": True, "dtype": "bf16", "verify_rows": 2},
    "eval": {
        "batch_rows": 3,
        "max_new_tokens": 5,
        "compare_base": False,
        "compare_blind": False,
        "num_rows": 1,
        "probes": PROBES,
    },
    "train": {
        "logging_steps": 3,
        "keep_checkpoints": 4,
        "num_workers": 0,
        "max_skipped_steps": 3,
        "eval_answers": 2,
        "select_by": "eval_token_f1",
        "report_to": [],
    },
    "video": {"cache_features": "off"},
}
"""Another value for every setting that may change when a training continues and that leaves every bit of it."""

NOT_HERE = ("model.embeddings_on_cpu", "export.keep_remote_code", "video.cache_limit_gb")
"""A CPU has nothing to move embeddings from, the tiny model no code to keep, and nothing is cached any more."""


def test_what_may_change_on_resume_leaves_every_bit_also_from_an_older_checkpoint(recipe, straight):
    stated = {f"{section}.{key}" for section, values in CHANGED.items() for key in values}
    resolved = load_recipe(recipe).recipe.to_dict()
    allowed = {name for name in SAME_BITS if "." in name}
    allowed |= {f"{name}.{key}" for name in SAME_BITS if "." not in name for key in resolved[name]}
    assert stated == allowed - set(NOT_HERE)
    folder = train_folder(recipe, "changed")
    process = start(recipe, "export.merge=false", name="changed")
    assert wait_until(lambda: num_steps_reported(folder) >= 9, process)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 75
    older, newest = find_checkpoints(folder)
    (newest / "optimizer.pt").unlink()
    with (folder / "logging.jsonl").open("a") as log:
        log.write('{"loss": 1')
    settings = [
        f"{section}.{key}={json.dumps(value)}" for section, values in CHANGED.items() for key, value in values.items()
    ]
    result = cvft_ok("train", recipe, "name=changed", *settings)
    assert f"broken    {newest.name} is not taken, because optimizer.pt is missing" in result.stderr
    assert f"resume    {older.name}" in result.stderr
    assert [json.loads(line) for line in (folder / "logging.jsonl").read_text().splitlines()]
    assert largest_difference(adapter_of(recipe, "changed"), straight) == 0


def kill_until_done(recipe: Path, *settings: str, name: str, num_kills: int, seed: int) -> int:
    """Trains, killed at random moments; returns how many of the kills hit a checkpoint that was being written."""
    dice = random.Random(seed)
    folder = train_folder(recipe, name)
    num_in_write = 0
    for number in range(num_kills):
        process = start(recipe, *settings, name=name)
        # two steps on at most: the training must live to be killed again
        first = num_steps_reported(folder) if number else 0
        (folder / "progress.jsonl").unlink(missing_ok=True)
        wanted = first + dice.randint(0, 2)
        is_running = wait_until(lambda wanted=wanted: num_steps_reported(folder) > wanted, process)
        children = descendants(process.pid)  # looked for ahead: a write does not wait for it
        if number % 3 == 1:
            is_running = wait_until(lambda: (folder / ASIDE).exists(), process)
        else:
            time.sleep(dice.random() * 0.2)
        assert is_running, f"the training was done after {number} kills"
        kill_tree(process, children)
        num_in_write += (folder / ASIDE).exists()
        assert_everything_named_is_whole(folder)
    cvft_ok("train", recipe, f"name={name}", *settings)
    assert_everything_named_is_whole(folder)
    assert not (folder / ASIDE).exists()
    return num_in_write


def test_killed_at_random_moments_one_process_ends_with_the_same_bits(recipe, straight):
    assert kill_until_done(recipe, name="killed", num_kills=NUM_KILLS, seed=1) >= 1
    assert largest_difference(adapter_of(recipe, "killed"), straight) == 0


@pytest.mark.long
def test_killed_at_random_moments_two_ranks_end_with_the_same_bits(recipe, straight_on_two_ranks):
    assert kill_until_done(recipe, *TWO_RANKS, name="killed2", num_kills=max(2, NUM_KILLS // 3), seed=2) >= 1
    assert largest_difference(adapter_of(recipe, "killed2"), straight_on_two_ranks) == 0


def test_a_signal_saves_a_checkpoint_and_the_resume_is_exact(recipe, straight):
    folder = train_folder(recipe, "stopped")
    process = start(recipe, "train.save_steps=20", name="stopped")
    assert wait_until(lambda: num_steps_reported(folder) >= 3, process)
    process.send_signal(signal.SIGTERM)
    saved = assert_stopped(folder, process)
    result = cvft_ok("train", recipe, "name=stopped", "train.save_steps=20")
    assert f"resume    {saved.name}" in result.stderr
    assert largest_difference(adapter_of(recipe, "stopped"), straight) == 0


def assert_stopped(folder: Path, process: subprocess.Popen[str]) -> Path:
    _, said = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 75, said
    saved = find_checkpoints(folder)[-1]
    assert f"the training was asked to stop: {saved.name} is saved; the same command continues it" in said
    return saved


def test_a_signal_that_the_shell_ignores_is_ignored_and_another_one_heeded(recipe):
    folder = train_folder(recipe, "nohup")
    command = ["nohup", sys.executable, "-m", "cvft", "train", str(recipe), "name=nohup", "train.max_steps=100000"]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_all_signals,
    )
    assert wait_until(lambda: num_steps_reported(folder) >= 1, process)
    process.send_signal(signal.SIGHUP)
    first = num_steps_reported(folder)
    assert wait_until(
        lambda: num_steps_reported(folder) >= first + 4, process
    )  # it would have ended after the next step
    assert not (folder / "stop").exists()
    process.send_signal(signal.SIGINT)
    assert_stopped(folder, process)


@pytest.mark.long
def test_a_stop_file_stops_two_ranks_as_well_and_run_says_so(recipe, straight_on_two_ranks):
    folder = train_folder(recipe, "stopped2")
    process = start(recipe, *TWO_RANKS, name="stopped2")
    assert wait_until(lambda: num_steps_reported(folder) >= 3, process)
    (folder / "stop").touch()
    _, said = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 75, said
    cvft_ok("train", recipe, "name=stopped2", *TWO_RANKS)
    assert largest_difference(adapter_of(recipe, "stopped2"), straight_on_two_ranks) == 0


def test_a_second_signal_ends_it_at_once_and_leaves_no_process(recipe):
    folder = train_folder(recipe, "impatient")
    process = start(recipe, "train.max_steps=100000", name="impatient")
    assert wait_until(lambda: num_steps_reported(folder) >= 1, process)
    children = descendants(process.pid)
    assert children
    # the worker cannot answer the first one
    os.kill(children[0], signal.SIGSTOP)
    process.send_signal(signal.SIGINT)
    assert wait_until(lambda: (folder / "stop").exists(), process)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 130
    assert_all_gone(children)


def test_when_one_rank_dies_the_others_stop_and_its_name_is_told(recipe):
    folder = train_folder(recipe, "one_dies")
    process = start(recipe, *TWO_RANKS, "train.max_steps=100000", name="one_dies")
    assert wait_until(lambda: num_steps_reported(folder) >= 2, process)
    children = descendants(process.pid)
    workers = workers_of(process.pid)
    ranks = {environment_of(pid).get("RANK"): pid for pid in reversed(workers)}  # not the loaders that they have forked
    started = time.monotonic()
    os.kill(ranks["1"], signal.SIGKILL)
    _, said = process.communicate(timeout=TIMEOUT_S)
    assert time.monotonic() - started < COLLECTIVE_TIMEOUT_S / 6, "the other rank waited for the dead one"
    assert process.returncode == 2
    assert "rank 1 (" in said
    assert "got signal SIGKILL, need exit code 0" in said
    assert_all_gone(children)


def workers_of(pid: int) -> list[int]:
    found = []
    for child in descendants(pid):
        with contextlib.suppress(OSError):
            if b"cvft.train.worker" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(child)
    return found


def environment_of(pid: int) -> dict[str, str]:
    words = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return dict(word.split("=", 1) for word in words if "=" in word)


def test_a_command_that_is_killed_takes_its_ranks_with_it_and_only_as_many_continue(recipe):
    folder = train_folder(recipe, "orphan")
    process = start(recipe, *TWO_RANKS, "train.max_steps=100000", name="orphan")
    assert wait_until(lambda: len(find_checkpoints(folder)) >= 1, process)
    children = descendants(process.pid)
    second = cvft("train", recipe, "name=orphan", *TWO_RANKS, "train.max_steps=100000")
    assert second.returncode == 2
    assert "folder: got another process that trains in it, need one at a time" in second.stderr
    process.kill()
    process.communicate()
    assert_all_gone(children)
    refused = cvft("train", recipe, "name=orphan", "train.max_steps=100000")
    assert refused.returncode == 2
    assert (
        "got `single on 1 rank`, need `zero2 on 2 ranks`: an optimizer state of DeepSpeed fits only" in refused.stderr
    )


def test_two_ranks_that_load_are_ended_at_once_and_none_is_left(recipe):
    """Some of them have only just been started, and cannot yet know that their launcher has gone."""
    process = start(recipe, *TWO_RANKS, name="loading")
    assert wait_until(lambda: len(workers_of(process.pid)) == 3, process)  # torch's launcher is one
    children = descendants(process.pid)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 75, said
    assert "it had done no step yet; the same command continues it" in said
    assert_all_gone(children)


def test_a_worker_whose_launcher_has_gone_already_ends_at_once(tmp_path):
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    command = [sys.executable, "-m", "cvft.train.worker", str(tmp_path / "plan.json")]
    for launcher, code in ((int(gone.stdout), 128 + signal.SIGKILL), (os.getpid(), 1)):
        environment = {**os.environ, LAUNCHER_VARIABLE: str(launcher)}
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        assert ended.returncode == code
        assert ("FileNotFoundError" in ended.stderr) == (code == 1)  # it looked for its plan


def test_ranks_may_change_where_the_optimizer_state_is_whole_and_rows_may_not(recipe, straight):
    folder = train_folder(recipe, "more_ranks")
    process = start(recipe, name="more_ranks")
    assert wait_until(lambda: len(find_checkpoints(folder)) >= 1, process)
    kill_tree(process)
    other_rows = recipe.parent / "other.jsonl"
    other_rows.write_text((recipe.parent / "train.jsonl").read_text().replace("a man", "a woman"))
    refused = cvft("train", recipe, "name=more_ranks", f"data.train={other_rows}")
    assert refused.returncode == 2
    assert "data.train: got other rows, need the rows that checkpoint-" in refused.stderr
    result = cvft_ok("train", recipe, "name=more_ranks", "parallel.strategy=ddp", "parallel.num_gpus=2")
    assert "was written by single on 1 rank and continues as ddp on 2 ranks" in result.stderr
    assert largest_difference(adapter_of(recipe, "more_ranks"), straight) < 0.1
    refused = cvft("train", recipe, "name=straight2", "parallel.strategy=zero2", "parallel.num_gpus=3")
    assert refused.returncode == 2
    assert "train.global_batch_rows: got `4`, need a multiple of 6" in refused.stderr


def test_another_order_of_rows_cannot_continue_a_training(tmp_path):
    # with rows held out by fraction, files are compared in any order: it is that of the train rows that tells
    recipe = make_project(tmp_path, data={"val": None, "val_fraction": 0.4}, train={**TRAIN, "max_steps": 400})
    process = start(recipe)
    assert wait_until(lambda: len(find_checkpoints(train_folder(recipe))) >= 1, process)
    kill_tree(process)
    rows = (tmp_path / "train.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "train.jsonl").write_text("".join(reversed(rows)))
    refused = cvft("train", recipe)
    assert refused.returncode == 2
    assert "got train rows in another order, or others of them held out, need those that checkpoint-" in refused.stderr


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 12 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    if shutil.which("mount") is None or os.geteuid() != 0:
        pytest.skip("needs root, to mount a small tmpfs")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(place)], check=False)
    if mounted.returncode:
        pytest.skip("this machine does not let root mount a tmpfs")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize(
    "num_bytes_left",
    [
        pytest.param(0, id="nothing_fits", marks=pytest.mark.long),
        pytest.param(48 * 2**10, id="a_checkpoint_does_not_fit"),
    ],
)
def test_a_full_disk_is_told_and_the_training_continues_when_there_is_room(
    recipe, straight, small_disk, num_bytes_left
):
    settings = (f"output.root={small_disk}", "name=full")
    folder = small_disk / "full" / "train"
    process = start(recipe, f"output.root={small_disk}", name="full")
    assert wait_until(lambda: len(find_checkpoints(folder)) >= 1, process)
    filler = small_disk / "filler"
    fill(filler, num_bytes_left=num_bytes_left)
    _, said = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 2, said
    assert "got a full disk, need room for checkpoints and logs" in said, said[-3000:]
    assert "is intact: free some space and run the same command again" in said
    assert_everything_named_is_whole(folder)
    if num_bytes_left == 0:
        return
    filler.unlink()
    cvft_ok("train", recipe, *settings)
    after = load_file(small_disk / "full" / "adapter" / "adapter_model.safetensors")
    assert largest_difference(after, straight) == 0


def fill(path: Path, *, num_bytes_left: int) -> None:
    """Writes until only so much fits."""
    with path.open("wb", buffering=0) as file:
        for size in (2**20, 2**12, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"\0" * size)
        file.truncate(file.tell() - num_bytes_left)
