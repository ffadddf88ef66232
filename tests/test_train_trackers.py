"""Trackers: what they are sent, and that nothing that goes wrong in one reaches a training."""

import json
import os
import sys

import pytest

from cvft.plan.environment import tracker_environment
from cvft.runs import RunFolder
from cvft.train.trackers import TRACKERS
from cvft.train.tracking import tracking
from tests.project import make_project

PLANTED = """
import json, os, sys, time
HOW = os.environ.get("PLANTED", "")
OUT = os.environ["PLANTED_OUT"]
print("a package that prints", flush=True)

def note(*values):
    with open(OUT, "a") as file:
        file.write(json.dumps(values) + "\\n")

class Table:
    def __init__(self, columns, data):
        self.rows = [dict(zip(columns, row)) for row in data]

class Run:
    url = "https://tracker.example/run"
    def log(self, values, step):
        if HOW == "raise" and step >= 4:
            raise ConnectionError("the address\\nrefuses connections")
        if HOW == "exit" and step >= 4:
            sys.exit(3)
        if HOW == "die":
            os.abort()
        if HOW == "hang":
            time.sleep(3600)
        note(step, {key: getattr(value, "rows", value) for key, value in values.items()})
    def finish(self):
        note("finished")

def init(*, name, id, resume, config):
    note("started", name, id, resume, config["lora.rank"], os.environ["WANDB_PROJECT"], os.environ.get("WANDB_API_KEY"))
    return Run()
"""
"""A package in the place of wandb that writes down what it gets, or misbehaves."""

LOG = [
    '{"loss": 2.5, "train_speed(s/it)": 0.5, "global_step/max_steps": "2/6"}',
    '{"eval_loss": 1.5, "eval_token_f1": 0.25, "global_step/max_steps": "2/6"}',
    '{"loss": 2.0, "global_step/max_steps": "4/6"}',
]
ANSWER = {
    "line": 3,
    "query": "Who?",
    "expected": "a man",
    "prediction": "a dog",
    "is_exact_match": False,
    "is_cut": False,
}


@pytest.fixture
def run(tmp_path, monkeypatch) -> RunFolder:
    (tmp_path / "planted").mkdir()
    (tmp_path / "planted" / "wandb.py").write_text(PLANTED)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'planted'}:{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("PLANTED_OUT", str(tmp_path / "out.jsonl"))
    recipe = make_project(tmp_path)
    folder = RunFolder(tmp_path / "runs" / "small")
    folder.train.mkdir(parents=True)
    folder.recipe_file.write_text(recipe.read_text() + "name: small\n")
    return folder


def written(run: RunFolder) -> list:
    out = run.path.parent.parent / "out.jsonl"
    return [json.loads(line) for line in out.read_text().splitlines()] if out.is_file() else []


def write_log(run: RunFolder, lines: list[str]) -> None:
    with (run.train / "logging.jsonl").open("a") as file:
        file.write("".join(f"{line}\n" for line in lines))


def test_numbers_and_answers_are_sent_once_over_two_starts(run, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_API_KEY", "of the environment")
    with tracking(["tensorboard", "wandb"], run, shell=os.environ):
        write_log(run, LOG)
        run.answers_file.write_text(json.dumps({"step": 2, **ANSWER}) + "\n" + '{"step": 4, "line"')
    started, *sent = written(run)
    assert started[1:2] + started[3:] == ["small", "allow", 4, "cvft", "of the environment"]
    assert sent == [
        [2, {"train/loss": 2.5, "train/train_speed_s_per_it": 0.5}],
        [2, {"eval/loss": 1.5, "eval/token_f1": 0.25}],
        [4, {"train/loss": 2.0}],
        [2, {"answers": [{key: value for key, value in ANSWER.items() if key != "is_cut"}]}],
        ["finished"],
    ]
    said = capsys.readouterr().err
    assert said == "note      wandb: https://tracker.example/run\n"
    assert "a package that prints" in run.tracker_log("wandb").read_text()
    # killed after step 4, gone on from step 2: what is logged again is not sent again
    write_log(run, ['{"loss": 9.0, "global_step/max_steps": "3/6"}', '{"loss": 1.0, "global_step/max_steps": "6/6"}'])
    with tracking(["wandb"], run, shell=os.environ):
        pass
    again, *sent = written(run)[1 + len(sent) :]
    assert again == started
    assert sent == [[6, {"train/loss": 1.0}], ["finished"]]


@pytest.mark.parametrize(
    ("how", "note"),
    [
        ("raise", "note      wandb: ConnectionError: the address refuses connections; nothing more is sent ("),
        ("exit", "note      wandb: SystemExit: 3; nothing more is sent ("),
        ("die", "note      wandb: ended by SIGABRT; see "),
        ("hang", "note      wandb: had not taken everything 3 s after the training; see "),
    ],
)
def test_what_goes_wrong_in_a_tracker_is_a_note(run, monkeypatch, capsys, how, note):
    monkeypatch.setenv("PLANTED", how)
    write_log(run, LOG)
    with tracking(["wandb"], run, shell=os.environ, end_s=3 if how == "hang" else 300):
        pass
    said = capsys.readouterr().err
    assert note in said
    assert said.count("note ") == 2  # the other is the address
    assert str(run.tracker_log("wandb")) in said
    if how == "raise":
        assert [line[0] for line in written(run)] == ["started", 2, 2]
        assert "Traceback" in run.tracker_log("wandb").read_text()


def test_a_shell_says_where_to_send_and_each_tracker_has_a_name_of_its_package(tmp_path):
    shell = {"WANDB_PROJECT": "mine", "MLFLOW_TRACKING_URI": "http://127.0.0.1:5000", "PATH": "/bin"}
    variables = tracker_environment(tmp_path, shell)
    assert {key: variables[key] for key in shell} == shell
    assert variables["TRACKIO_PROJECT"] == variables["MLFLOW_EXPERIMENT_NAME"] == "cvft"
    assert variables["WANDB_DIR"] == str(tmp_path)
    assert not any("KEY" in name for name in variables)
    assert set(TRACKERS) | {"tensorboard"} == {"tensorboard", "wandb", "swanlab", "trackio", "mlflow"}
    assert not set(TRACKERS) & set(sys.modules)  # none is imported where it is not used
