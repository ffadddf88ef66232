"""Several ranks answer as one process does, bit for bit, whatever kills them; and none is left when one, or the command, ends."""

import itertools
import json
import os
import pickle
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cvft.cli.interrupts import GRACE_S
from cvft.cli.main import main
from cvft.data.rows import Row, read_rows
from cvft.errors import CvftError, RunError
from cvft.families.answering import Answer
from cvft.families.table import FAMILIES
from cvft.predict.infer import BATCH_ROWS, infer_file, load_found
from cvft.predict.ranks import AnsweringRanks
from cvft.predict.trained import find_model
from cvft.processes import LAUNCHER_VARIABLE
from tests.project import HANG_S, files_under, write_jsonl
from tests.trained import copy_of_trained_project

SHAPES = Path(__file__).parent.parent / "datasets" / "tiny_shapes"
NUM_ROWS = 300
NUM_KILLS = int(os.environ.get("CVFT_NUM_KILLS", "1"))
"""Each start of a rank costs seconds: there are few unless more are asked for, and half as many of an evaluation."""

SLACK = 10
"""How much longer a busy machine may take than GRACE_S."""


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Rows about many clips in no order, some of them without one."""
    rows = [json.loads(line) for line in (SHAPES / "val.jsonl").read_text().splitlines()]
    dice = random.Random(5)
    dice.shuffle(rows)
    for number, row in enumerate(rows):
        row["videos"] = [] if number % 17 == 3 else [str(SHAPES / row["videos"][0])]
    return write_jsonl(tmp_path_factory.mktemp("rows") / "rows.jsonl", rows[:NUM_ROWS])


@pytest.fixture(scope="module")
def straight(data) -> bytes:
    """What one process answers."""
    output = data.with_name("straight.jsonl")
    infer_file("tiny", data=data, output=output)
    return output.read_bytes()


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return copy_of_trained_project(tmp_path_factory).parent / "runs" / "small"


def start(*words: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "cvft", *map(str, words)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL) and None,
    )


def wait_until(is_so: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + HANG_S
    while not is_so():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)


def num_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def children_of(pid: int) -> list[int]:
    return [int(child) for task in Path(f"/proc/{pid}/task").glob("*/children") for child in task.read_text().split()]


def descendants_of(pid: int) -> list[int]:
    return [each for child in children_of(pid) for each in (child, *descendants_of(child))]


def ranks_of(pid: int) -> list[int]:
    """Ranks of a command that have begun: a child that is between fork and exec has no such command line yet."""
    return [pid for pid in children_of(pid) if b"cvft.predict.rank_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def assert_all_gone(pids: list[int]) -> None:
    """A decoder notices the end of its rank a moment later."""
    deadline = time.monotonic() + HANG_S
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def kept_rows(partial: Path) -> list[int]:
    raw = partial.read_bytes() if partial.is_file() else b""
    lines = [json.loads(line) for line in raw[: raw.rfind(b"\n") + 1].splitlines()]
    return [number for line in lines[1:] for number in line["rows"]]


def kill_at_random(words: list[object], partial: Path, *, dice: random.Random, is_first: bool) -> None:
    """Kills a command and what it started at a random moment: while ranks load, answer, or an answer is written."""
    process = start(*words)
    before = num_lines(partial)
    more = dice.randint(0, 40 // NUM_KILLS)  # so that something is left for the next one
    if is_first:
        more = max(2, more)  # settings and an answer: the next start has something to go on from
    if more:
        wait_until(lambda: num_lines(partial) >= before + more, process)
        time.sleep(dice.random() * 0.1 / NUM_KILLS)
    else:
        deadline = time.monotonic() + dice.random() * 5
        wait_until(lambda: time.monotonic() > deadline or num_lines(partial) > before, process)
    left = descendants_of(process.pid)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert_all_gone(left)


def test_infer_killed_at_random_moments_answers_every_row_once_whatever_the_number_of_ranks(data, straight, tmp_path):
    output, partial = tmp_path / "out.jsonl", tmp_path / "out.partial.jsonl"
    words = ["infer", "--model", "tiny", "--data", data, "--output", output, "--num-gpus"]
    dice = random.Random(17)
    before: list[int] = []
    for kill, num_ranks in zip(range(NUM_KILLS), itertools.cycle([2, 1, 3]), strict=False):
        kill_at_random([*words, num_ranks], partial, dice=dice, is_first=not kill)
        kept = kept_rows(partial)
        assert len(set(kept)) == len(kept)
        assert kept[: len(before)] == before  # what was kept is not answered again
        assert len(kept) < NUM_ROWS, "there is nothing left to be killed"
        before = kept
    assert before
    process = start(*words, 2)
    said = process.communicate(timeout=HANG_S)
    assert process.returncode == 0, said
    assert f"{len(before)} of {NUM_ROWS} are there from before" in said[1]
    assert output.read_bytes() == straight
    assert files_under(tmp_path) == ["out.jsonl"]


def test_eval_killed_at_random_moments_ends_with_the_same_numbers(run, data, tmp_path, capsys, caplog):
    rows = write_jsonl(tmp_path / "rows.jsonl", [json.loads(line) for line in data.read_text().splitlines()[:120]])
    words = ["eval", run, "--model", "merged", "--data", rows]
    assert main([*map(str, words)]) == 0
    metrics = json.loads(capsys.readouterr().out)
    (folder,) = (run / "eval").glob("merged-rows-*")
    predictions = (folder / "predictions.jsonl").read_bytes()
    shutil.rmtree(folder)
    capsys.readouterr()
    dice, partial = random.Random(3), folder / "predictions.partial.jsonl"
    for kill, num_ranks in zip(range(max(1, NUM_KILLS // 2)), itertools.cycle([2, 3]), strict=False):
        kill_at_random([*words, "--num-gpus", num_ranks], partial, dice=dice, is_first=not kill)
        assert not (folder / "metrics.json").exists()
    caplog.set_level("INFO")
    assert main([*map(str, words)]) == 0
    assert "of 120 are there from before" in caplog.text
    assert json.loads(capsys.readouterr().out) == metrics
    assert (folder / "predictions.jsonl").read_bytes() == predictions
    assert files_under(folder) == ["metrics.json", "predictions.jsonl"]


def test_a_rank_that_dies_ends_the_others_with_its_name_and_ctrl_c_ends_all(data, tmp_path):
    output, partial = tmp_path / "out.jsonl", tmp_path / "out.partial.jsonl"
    words = ["infer", "--model", "tiny", "--data", data, "--output", output, "--num-gpus", 2]
    process = start(*words)
    wait_until(lambda: num_lines(partial) >= 3, process)
    left, ranks = descendants_of(process.pid), ranks_of(process.pid)
    assert len(ranks) == 2
    os.kill(max(ranks), signal.SIGKILL)
    said, told = process.communicate(timeout=HANG_S)
    assert (process.returncode, said) == (2, "")
    assert (
        "the ranks that answer has 1 problem\n  rank 1 of 2: got signal SIGKILL before its rows were answered" in told
    )
    assert "hint: the system kills a process when memory runs out" in told
    assert "Traceback" not in told
    assert_all_gone(left)
    kept = kept_rows(partial)
    assert kept
    assert not output.exists()

    process = start(*words)
    wait_until(lambda: len(ranks_of(process.pid)) == 2, process)  # they load the model
    left = descendants_of(process.pid)
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    said, told = process.communicate(timeout=HANG_S)
    assert time.monotonic() - started < SLACK * GRACE_S
    assert (process.returncode, said) == (130, "")
    assert "Traceback" not in told
    assert_all_gone(left)
    assert kept_rows(partial) == kept


@pytest.fixture
def odd_rows(data, tmp_path) -> list[Row]:
    """Rows of which some cannot be answered."""
    cut = tmp_path / "cut.mp4"
    cut.write_bytes((SHAPES / "clips" / "val_000.mp4").read_bytes()[:-2000])
    rows = [{"query": f"{number}?", "videos": [str(cut)]} for number in range(2)]
    rows += [json.loads(line) for line in data.read_text().splitlines()[:20]]
    rows.insert(9, {"query": "~" * 4000})
    return read_rows(write_jsonl(tmp_path / "odd.jsonl", rows), require_response=False)


def outcome(batches: Iterator) -> tuple[dict[int, Answer], dict[int, tuple]]:
    answers, bad = {}, {}
    for batch in batches:
        assert not answers.keys() & batch.answers.keys()
        answers |= batch.answers
        bad |= {number: (type(error), error.subject, error.problems) for number, error in batch.bad.items()}
    return answers, bad


def test_each_rank_has_a_gpu_of_its_own_and_says_what_one_process_says(odd_rows, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7, 5")
    found = find_model("tiny")
    alone = load_found(found)
    expected = outcome(alone.answer_batches(odd_rows, batch_rows=BATCH_ROWS, max_new_tokens=None))
    alone.close()
    assert {kind.__name__ for kind, *_ in expected[1].values()} == {"ClipError", "DataError"}
    ranks = AnsweringRanks(found, num=2, device="cuda")
    batches = ranks.answer_batches(odd_rows, batch_rows=BATCH_ROWS, max_new_tokens=None)
    first = next(batches)
    running = descendants_of(os.getpid())
    variables = [Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") for pid in ranks_of(os.getpid())]
    assert [f"CUDA_VISIBLE_DEVICES={name}".encode() in each for each, name in zip(variables, "75", strict=True)] == [
        True,
        True,
    ]
    assert all(f"{LAUNCHER_VARIABLE}={os.getpid()}".encode() in each for each in variables)
    assert outcome(itertools.chain([first], batches)) == expected
    assert ranks.cut == alone.cut
    assert_all_gone(running)


@pytest.mark.gpu
def test_ranks_on_gpus_say_what_one_gpu_says(odd_rows):
    import torch

    found = find_model("tiny")
    alone = load_found(found)
    expected = outcome(alone.answer_batches(odd_rows, batch_rows=BATCH_ROWS, max_new_tokens=None))
    alone.close()
    ranks = AnsweringRanks(found, num=torch.cuda.device_count(), device="cuda")
    assert outcome(ranks.answer_batches(odd_rows, batch_rows=BATCH_ROWS, max_new_tokens=None)) == expected


def test_what_a_rank_refuses_is_told_with_its_name(odd_rows, tmp_path):
    folder = shutil.copytree(find_model("tiny").folder, tmp_path / "cogvlm2-video-llama3-chat")
    found = find_model(folder)
    (folder / "model.safetensors").unlink()
    before = set(descendants_of(os.getpid()))
    ranks = AnsweringRanks(found, num=1, device="cpu")
    with pytest.raises(CvftError, match=r"rank 0 of 1, has 1 problem") as raised:
        list(ranks.answer_batches(odd_rows, batch_rows=BATCH_ROWS, max_new_tokens=None))
    assert type(raised.value).__name__ == "ModelError"
    assert set(descendants_of(os.getpid())) <= before


def test_what_a_rank_said_last_is_told(odd_rows, tmp_path, monkeypatch):
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "torch.py").write_text("raise RuntimeError('this library is broken')\n")
    monkeypatch.setenv("PYTHONPATH", str(broken), prepend=os.pathsep)
    ranks = AnsweringRanks(find_model("tiny"), num=2, device="cpu")
    with pytest.raises(RunError) as raised:
        list(ranks.answer_batches(odd_rows, batch_rows=BATCH_ROWS, max_new_tokens=None))
    told = str(raised.value)
    assert re.search(
        r"rank [01] of 2: got exit code 1 before its rows were answered, need an answer to each of them", told
    )
    assert "hint: it said\n" in told
    assert told.endswith("RuntimeError: this library is broken")


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_family_can_be_sent_to_a_rank(family):
    assert type(pickle.loads(pickle.dumps(family))) is type(family)


def test_more_ranks_than_gpus_are_refused_before_anything_is_loaded(data, tmp_path, monkeypatch):
    driver = tmp_path / "bin" / "nvidia-smi"
    driver.parent.mkdir()
    driver.write_text("#!/bin/sh\necho NVIDIA L4, 23034\necho NVIDIA L4, 23034\n")
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", f"{driver.parent}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(CvftError, match="--num-gpus: got `3`, need at most the 2 GPUs present"):
        infer_file("tiny", data=data, output=tmp_path / "out.jsonl", num_ranks=3)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    with pytest.raises(CvftError, match="--num-gpus: got `2`, need at most the 1 GPUs present"):
        infer_file("tiny", data=data, output=tmp_path / "out.jsonl", num_ranks=2)
    assert files_under(tmp_path) == ["bin/nvidia-smi"]
