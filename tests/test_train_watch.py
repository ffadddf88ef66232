"""Training that falls apart: it ends with the step and the likely causes, on every rank, and nothing of it is published."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cvft.errors import ModelError
from cvft.train.launch import read_new_lines
from cvft.train.watch import describe_course, diverged_error, is_sound
from cvft.weights.finite import refuse_nonfinite
from cvft.weights.folder import ADAPTER_WEIGHTS_FILE
from tests.project import cvft, make_project
from tests.real_clips import real_clip
from tests.tiny import TINY, tiny_processor
from tests.trained import copy_of_trained_project

TOO_HIGH = {"learning_rate": 1e6}
SHORT = {"max_steps": 6, "save_steps": 1, "eval_steps": 6, "keep_checkpoints": 9, "micro_batch_rows": 4}


@pytest.mark.parametrize(
    ("norm", "expected"),
    [(0.5, True), (0.0, True), (None, True), (float("nan"), False), (float("inf"), False), (-1.0, False)],
)
def test_a_norm_is_sound_when_it_is_a_number_and_not_deepspeeds_mark(norm, expected):
    assert is_sound(norm) is expected


def test_the_error_says_what_was_seen_and_names_likely_causes():
    values = {"step": 7, "num_steps": 90, "loss": float("nan"), "norm": float("nan"), "learning_rate": 0.02}
    log = [{"step": 2, "loss": 3.0}, {"step": 4, "loss": 9.25}, {"step": 4, "eval_loss": 8.0}]
    error = diverged_error(**values, log=log, dtype="bf16", rows=[4, 9, 11, 12], num_skipped=0, max_skipped=0)
    assert str(error) == (
        "the training has 1 problem\n"
        "  step 7 of 90: got a loss of nan after losses of 3, 9.25, need finite numbers\n"
        "    hint: likely causes: a learning rate that is too high (optim.learning_rate, 0.02 in this step) or a short warm-up; "
        "the rounding of bf16 (model.dtype=fp32 has less); a bad row (the loss is not finite on data/train.jsonl, line 4, 9, 11 "
        "and more). Train again under another name (name=...); train.max_skipped_steps lets a training go on without single "
        "steps like this one"
    )


def entry(step: int, **values: float) -> dict[str, float]:
    return {"step": step, **values}


@pytest.mark.parametrize(
    ("log", "notes"),
    [
        ([], []),
        ([entry(1, loss=3.0), entry(2, eval_loss=2.0), entry(4, eval_loss=1.0)], []),
        ([entry(1, loss=3.0), entry(2, eval_loss=0.01), entry(4, eval_loss=0.05)], []),  # near 0
        ([entry(1, loss=3.6), entry(2, eval_loss=0.55), entry(6, eval_loss=10.72)], ["val loss of 0.55 at step 2"]),
        ([entry(1, loss=2.0), entry(6, eval_loss=9.0)], ["the loss of 2 at step 1"]),
        ([entry(3, skipped_steps=1)], ["1 step (3) left the adapter as it was"]),
        ([entry(3, skipped_steps=1), entry(5, skipped_steps=2), entry(3, skipped_steps=1)], ["2 steps (3, 5) left"]),
    ],
)
def test_the_course_of_a_training_is_told_when_it_speaks_against_the_adapter(log, notes):
    found = describe_course(log)
    assert len(found) == len(notes)
    assert all(part in note for part, note in zip(notes, found, strict=True)), found


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_file_with_one_number_that_is_none_is_refused(tmp_path, dtype, value):
    weights = {"a": torch.full((3, 5), torch.finfo(dtype).max, dtype=dtype), "b": torch.zeros(4, dtype=dtype)}
    save_file(weights, tmp_path / "w.safetensors")
    refuse_nonfinite(tmp_path / "w.safetensors", subject="weights")
    weights["a"][2, 4] = value
    save_file(weights, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match="a: got 1 numbers that are infinite or nan, need finite ones"):
        refuse_nonfinite(tmp_path / "w.safetensors", subject="weights")


WRITE_IN_PIECES = """
import json, sys
with open(sys.argv[1], "ab", buffering=0) as file:
    for number in range(int(sys.argv[2])):
        line = json.dumps({"step": number}).encode() + b"\\n"
        file.write(line[:9])
        file.write(line[9:])
"""


def test_lines_that_are_read_while_they_are_written_come_whole(tmp_path):
    path, num_lines, num_bytes, found = tmp_path / "progress.jsonl", 20_000, 0, 0
    writer = subprocess.Popen([sys.executable, "-c", WRITE_IN_PIECES, str(path), str(num_lines)])
    while found < num_lines:
        ended = writer.poll() is not None
        for line in read_new_lines(path, start=num_bytes):
            num_bytes += len(line)
            assert json.loads(line) == {"step": found}
            found += 1
        assert found == num_lines or not ended
    assert writer.wait() == 0


# --- trainings


def run_of(recipe: Path) -> Path:
    return recipe.parent / "runs" / "small"


def test_steps_are_left_out_as_far_as_allowed_and_truly_so(tmp_path):
    recipe = make_project(tmp_path, optim=TOO_HIGH, train={**SHORT, "max_skipped_steps": 2})
    result = cvft("train", recipe)
    assert result.returncode == 2
    assert "step 5 of 6: got a gradient norm of nan after losses of" in result.stderr
    assert "and 2 steps were left out before, need finite numbers" in result.stderr
    assert "optim.learning_rate, " in result.stderr
    run = run_of(recipe)
    assert not (run / "adapter").exists()
    checkpoints = [run / "train" / f"checkpoint-{step}" for step in (2, 3, 4)]
    assert [path.name for path in sorted((run / "train").glob("checkpoint-*"))] == [
        f"checkpoint-{step}" for step in (1, 2, 3, 4)
    ]
    first, *others = (load_file(path / ADAPTER_WEIGHTS_FILE) for path in checkpoints)
    for weights in others:  # steps 3 and 4 changed neither the adapter nor what the optimizer remembers
        assert all(torch.equal(weights[name], value) for name, value in first.items())
    states = [torch.load(path / "optimizer.pt", weights_only=True)["state"] for path in checkpoints]
    for state in states[1:]:
        assert state.keys() == states[0].keys() != set()
        assert all(
            torch.equal(value, states[0][key][name]) for key, values in state.items() for name, value in values.items()
        )
    lines = [json.loads(line) for line in (run / "train" / "logging.jsonl").read_text().split("\n") if line]
    assert [line["skipped_steps"] for line in lines if "skipped_steps" in line] == [1, 2]
    assert sum("loss" in line for line in lines) == 4  # a step that was left out logs its loss like any other
    # a training that goes on counts those before, and may be allowed more
    result = cvft("train", recipe, "train.max_skipped_steps=4")
    assert result.returncode == 0, result.stderr
    assert "note      4 steps (3, 4, 5 and others) left the adapter as it was" in result.stderr
    weights = load_file(run / "adapter" / ADAPTER_WEIGHTS_FILE)
    assert all(torch.equal(weights[name], value) for name, value in first.items())


def base_with_a_poisoned_word(folder: Path, word: str) -> Path:
    shutil.copytree(TINY, folder)
    weights = load_file(folder / "model.safetensors")
    for token in tiny_processor().encode_text(word):
        weights["model.embed_tokens.weight"][token] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def rows_with(word: str, number: int) -> list[dict]:
    rows = [{"query": f"What is {n} ?", "response": "red", "videos": [str(real_clip("bikes.mp4"))]} for n in range(8)]
    rows[number]["query"] = f"Is it {word} ?"
    return rows


@pytest.mark.parametrize(("strategy", "micro_batch"), [("ddp", 1), ("zero2", 2)])
def test_every_rank_stops_and_the_row_is_named(tmp_path, strategy, micro_batch):
    base = base_with_a_poisoned_word(tmp_path / "base", "purple")
    rows = rows_with("purple", 5)
    recipe = make_project(
        tmp_path,
        rows=rows,
        val_rows=rows[:2],
        model={"path": str(base)},
        train={**SHORT, "global_batch_rows": 8, "micro_batch_rows": micro_batch, "group_by_clip": "off"},
        parallel={"strategy": strategy, "num_gpus": 2},
    )
    result = cvft("train", recipe)
    assert result.returncode == 2
    assert "step 1 of 6: got a loss" in result.stderr
    named = result.stderr.partition("data/train.jsonl, line ")[2].partition(")")[0].split(", ")
    assert "6" in named
    assert len(named) <= micro_batch
    logs = [(run_of(recipe) / "train" / "logs" / f"rank-{rank}.log").read_text() for rank in (0, 1)]
    assert sum("step 1 of 6: got a loss" in log for log in logs) >= 1  # the others may be ended before they say it
    assert not (run_of(recipe) / "adapter").exists()
    assert not list((run_of(recipe) / "train").glob("checkpoint-*"))


def test_a_val_loss_that_is_no_number_ends_the_training(tmp_path):
    base = base_with_a_poisoned_word(tmp_path / "base", "purple")
    rows = rows_with("purple", 0)
    recipe = make_project(
        tmp_path,
        rows=rows[1:],
        val_rows=rows[:2],
        model={"path": str(base)},
        train={**SHORT, "max_steps": 2, "eval_steps": 1},
    )
    result = cvft("train", recipe)
    assert result.returncode == 2
    assert "val loss at step 1: got nan, need a finite number" in result.stderr
    assert not (run_of(recipe) / "adapter").exists()


@pytest.mark.parametrize("strategy", ["zero1", "zero2", "zero3"])
def test_no_step_is_left_out_under_deepspeed(tmp_path, strategy):
    recipe = make_project(tmp_path, train={"max_skipped_steps": 1}, parallel={"strategy": strategy, "num_gpus": 2})
    result = cvft("train", recipe)
    assert result.returncode == 2
    assert (
        f"train.max_skipped_steps: got `1` with `parallel.strategy` {strategy}, need 0: DeepSpeed has " in result.stderr
    )


# --- what such a training leaves


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory) -> Path:
    """A finished run whose adapter has become one that no training may leave."""
    run = copy_of_trained_project(tmp_path_factory).parent / "runs" / "small"
    file = run / "adapter" / ADAPTER_WEIGHTS_FILE
    weights = load_file(file)
    next(iter(weights.values()))[0, 0] = float("inf")
    save_file(weights, file, metadata={"format": "pt"})
    shutil.rmtree(run / "merged")
    shutil.rmtree(run / "eval")
    return run


@pytest.mark.parametrize(
    "command",
    [
        ("eval", "RUN", "--model", "adapter"),
        ("export", "RUN"),
        ("infer", "--model", "RUN/adapter", "--query", "What is shown?"),
        ("push", "RUN", "--to", "me/mine", "--model", "adapter", "--card", "CARD"),
    ],
    ids=lambda command: command[0],
)
def test_an_adapter_that_is_not_finite_is_refused_everywhere(poisoned, tmp_path, command):
    words = [word.replace("RUN", str(poisoned)).replace("CARD", str(tmp_path / "card.md")) for word in command]
    result = cvft(*words)
    assert result.returncode == 2, result.stderr
    assert "got 1 numbers that are infinite or nan, need finite ones" in result.stderr
    assert not (poisoned / "merged").exists()
    assert not (tmp_path / "card.md").exists()


DAMAGED_MERGE = """
import sys
from safetensors.torch import load_file, save_file
import cvft.export.merge as merge
honest = merge.merge_adapter
def damaged(*args, output, **kwargs):
    honest(*args, output=output, **kwargs)
    weights = load_file(output / 'model.safetensors')
    weights['model.layers.2.mlp.language_mlp.up_proj.weight'][7] *= 1.5
    save_file(weights, output / 'model.safetensors', metadata={'format': 'pt'})
merge.merge_adapter = damaged
from cvft.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_refused_merge_costs_the_adapter_neither_its_evaluation_nor_its_report(tmp_path):
    """Of a training that fell apart, at that: the report says both."""
    recipe = make_project(
        tmp_path, optim=TOO_HIGH, train={**SHORT, "save_steps": 6, "eval_steps": 1, "max_skipped_steps": 4}
    )
    command = [sys.executable, "-c", DAMAGED_MERGE, "run", str(recipe)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2, result.stderr
    *before, last = result.stderr.split("the merged weights has 1 problem")
    assert "up_proj.weight: got 352 of 45056 numbers" not in "".join(before)
    assert "model.layers.2.mlp.language_mlp.up_proj.weight: got " in last
    assert "note      4 steps (3, 4, 5 and others) left the adapter as it was" in before[-1]
    run = run_of(recipe)
    assert not (run / "merged").exists()
    assert not list(run.glob("*.partial"))
    assert {path.name for path in (run / "eval").iterdir()} == {"base", "adapter", "adapter-blind"}
    page = (run / "report.html").read_text()
    assert "The merged model was refused; the adapter is what was evaluated." in page
    assert "up_proj.weight: got " in page
    assert "Training: 4 steps (3, 4, 5 and others) left the adapter as it was" in page
