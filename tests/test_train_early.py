"""A training that answers val rows, ends early and keeps its best checkpoint: left alone, killed, and asked afterwards."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest

from cvft.cli.main import main
from cvft.runs import RunFolder, read_chosen
from tests.project import cvft_ok, make_project
from tests.test_train_interruptions import kill_tree, start, wait_until
from tests.test_train_trackers import PLANTED

TRAIN = {
    "max_steps": 40,
    "eval_steps": 2,
    "save_steps": 2,
    "eval_answers": 3,
    "select_by": "eval_token_f1",
    "early_stop_evals": 2,
    "keep_checkpoints": 1,
    "report_to": ["tensorboard", "wandb"],
    "gradient_checkpointing": True,
}
"""The half-trained model says nothing right, so that nothing is better than what was measured first."""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    return make_project(tmp_path_factory.mktemp("early"), train=TRAIN, export={"checkpoint": "best"})


@pytest.fixture(scope="module")
def straight(recipe) -> tuple[RunFolder, str]:
    """A run that nobody disturbed, whose tracker raises, and what it said."""
    folder = recipe.parent / "planted"
    folder.mkdir()
    (folder / "wandb.py").write_text(PLANTED)
    paths = f"{folder}:{os.environ.get('PYTHONPATH', '')}"
    variables = {"PYTHONPATH": paths, "PLANTED": "raise", "PLANTED_OUT": str(folder / "out.jsonl")}
    said = cvft_ok("train", recipe, "name=straight", env={**os.environ, **variables}).stderr
    return RunFolder(recipe.parent / "runs" / "straight"), said


def weights(folder: Path) -> bytes:
    return (folder / "adapter_model.safetensors").read_bytes()


def test_it_ends_early_and_its_best_checkpoint_is_the_adapter(straight):
    run, said = straight
    chosen = read_chosen(run)
    assert (chosen.step, chosen.best_step, chosen.last_step, chosen.num_steps) == (2, 2, 6, 40)
    assert "the training ended after step 6 of 40: eval_token_f1 was best at step 2 (0) and not better in the 2" in said
    assert "adapter   checkpoint-2 of 40 steps, the best by eval_token_f1 (eval_token_f1 0)" in said
    assert sorted(path.name for path in run.train.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-6"]
    assert weights(run.adapter) == weights(run.train / "checkpoint-2") != weights(run.train / "checkpoint-6")


def test_a_tracker_that_raises_costs_the_training_nothing(straight):
    run, said = straight
    assert "note      wandb: ConnectionError: the address refuses connections; nothing more is sent" in said
    sent = (run.path.parent.parent / "planted" / "out.jsonl").read_text().splitlines()
    assert {json.loads(line)[0] for line in sent} == {"started", 1, 2, 3}
    events = b"".join(path.read_bytes() for path in (run.train / "runs").rglob("events.*"))
    assert b"answers/row 1" in events
    assert b"eval/token_f1" in events


def test_what_was_said_while_it_trained_is_what_an_evaluation_of_the_checkpoint_says(straight, capsys):
    run, _ = straight
    lines = [json.loads(line) for line in run.answers_file.read_text().splitlines()]
    assert [line["step"] for line in lines] == [2] * 3 + [4] * 3 + [6] * 3
    assert main(["eval", str(run.path), "--checkpoint", "last"]) == 0
    metrics = json.loads(capsys.readouterr().out)
    (evaluation,) = run.eval.glob("adapter-checkpoint-6*")
    predictions = [json.loads(line) for line in (evaluation / "predictions.jsonl").read_text().splitlines()]
    assert [line["prediction"] for line in lines[-3:]] == [line["prediction"] for line in predictions]
    log = [json.loads(line) for line in (run.train / "logging.jsonl").read_text().splitlines()]
    logged = [line for line in log if "eval_rouge_l" in line]
    assert len(logged) == 3
    for name in ("exact_match", "token_f1", "rouge_l"):
        assert logged[-1][f"eval_{name}"] == pytest.approx(metrics[name])


def test_the_report_shows_answers_pace_memory_and_data(straight):
    run, _ = straight
    assert main(["report", str(run.path)]) == 0
    page = run.report.read_text()
    for title in ("Rows per second", "Seconds per step", "Memory of the first process in GiB", "Answers to val rows"):
        assert f"<figcaption>{title}" in page, title
    values = json.loads((run.path / "report.json").read_text())
    assert [step for step, _ in values["curves"]["Rows per second"][""]] == [1, 2, 3, 4, 5, 6]
    assert all(rate > 0 for _, rate in values["curves"]["Rows per second"][""])
    assert values["summary"]["adapter is"].startswith("checkpoint-2 of 40 steps, the best by eval_token_f1")
    assert len(values["answered"]["rows"]) == 3
    assert values["answered"]["rows"][0]["query"] == "What is shown?"
    # every val row is one of the train rows
    kinds = {kind["id"]: kind for kind in values["health"]["kinds"]}
    assert kinds["duplicate_row"]["count"] == 3
    assert kinds["duplicate_row"]["examples"][0]["where"].endswith("val.jsonl:1")
    assert "<strong>warning</strong> the same row again: it counts twice: 3" in page


def test_another_checkpoint_than_the_adapter_is_refused_and_named(recipe, straight, capsys):
    run, _ = straight
    before = run.chosen_file.read_bytes()
    for command in ("train", "run", "export", "eval"):
        assert main([command, str(recipe), "name=straight", "export.checkpoint=last"]) == 2
        said = capsys.readouterr().err
        assert "export.checkpoint: got `last`, need `best` (step 2), which this run's adapter is" in said, command
        assert f"cvft export {run.path} --checkpoint last merges that one beside it" in said
    # the same one by another name
    assert main(["train", str(recipe), "name=straight", "export.checkpoint=best"]) == 0
    assert run.chosen_file.read_bytes() == before


def test_killed_it_ends_after_the_same_step_with_the_same_bits(recipe, straight):
    run, _ = straight
    name = "name=killed"
    folder = recipe.parent / "runs" / "killed"
    process = start(recipe, "train.report_to=[]", name="killed")
    assert wait_until(lambda: (folder / "train" / "checkpoint-4").is_dir(), process)
    kill_tree(process)
    said = cvft_ok("train", recipe, name, "train.report_to=[]").stderr
    assert "resume    checkpoint-4" in said
    killed = RunFolder(folder)
    assert read_chosen(killed) == read_chosen(run)
    assert weights(killed.train / "checkpoint-6") == weights(run.train / "checkpoint-6")
    answers = [set(each.answers_file.read_text().splitlines()) for each in (killed, run)]
    assert answers[0] == answers[1]
    # killed once it had ended and before it had an adapter, it does no step more
    shutil.rmtree(killed.adapter)
    killed.chosen_file.unlink()
    log = killed.worker_log(0).read_bytes()
    assert main(["train", str(recipe), name, "train.report_to=[]"]) == 0
    assert killed.worker_log(0).read_bytes() == log
    assert weights(killed.adapter) == weights(run.adapter)
    assert re.search(r'"step": 2\b', killed.chosen_file.read_text())
