"""What a training wrote stays as it is: evaluations, exports and answers only add to a run's folder."""

import json
import shutil
from pathlib import Path

import pytest

from cvft.cli.main import main
from cvft.predict import placement
from tests.project import cvft_ok, files_under, make_project
from tests.real_clips import real_clip


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """The folder of a run that was trained and nothing more."""
    recipe = make_project(tmp_path_factory.mktemp("trained"), train={"max_steps": 1}, export={"verify_rows": 1})
    cvft_ok("train", recipe)
    return recipe.parent / "runs" / "small"


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in files_under(folder)}


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_eval_export_and_infer_leave_what_training_wrote(trained, tmp_path):
    before = contents(trained)
    for part in ("recipe.yaml", "plan.json", "manifest.json", "data/", "adapter/", "train/"):
        assert any(name.startswith(part) for name in before), part
    question = ("--query", "What is shown?", "--video", real_clip("bikes.mp4"))
    for words in (
        ("eval", trained, "--model", "base"),
        ("eval", trained, "--model", "adapter", "eval.batch_rows=1"),
        ("eval", trained, "--model", "adapter", "eval.max_new_tokens=2"),
        ("export", trained, "export.verify_rows=2"),
        ("eval", trained, "--model", "merged"),
        ("infer", "--model", trained / "adapter", *question),
        ("infer", "--model", trained / "merged", *question),
        ("infer", "--model", trained / "adapter", "--data", trained / "data" / "val.jsonl", "--output", tmp_path / "o"),
    ):
        cvft_ok(*words)
        now = contents(trained)
        assert [name for name in before if now.get(name) != before[name]] == [], words
        before = now  # what one command wrote, the next ones leave
    made = {path.name.partition("-")[0] for path in (trained / "eval").iterdir()}
    assert made == {"base", "adapter", "merged"}
    assert len(list((trained / "eval").glob("adapter-*"))) == 1
    # the recipe that travels with the weights is the one that they were trained with
    assert (trained / "merged" / "recipe.yaml").read_bytes() == (trained / "adapter" / "recipe.yaml").read_bytes()


def test_an_evaluation_with_other_settings_gets_a_folder_of_its_own(trained):
    cvft_ok("eval", trained, "--model", "base")
    own = trained / "eval" / "base"
    before = contents(trained)
    result = cvft_ok("eval", trained, "eval.num_rows=2", "--model", "base")
    assert [name for name, data in contents(trained).items() if before.get(name, data) != data] == []
    assert before.keys() <= contents(trained).keys()
    (other,) = (trained / "eval").glob("base-*")
    assert contents(trained).keys() - before.keys() == {
        f"eval/{other.name}/{name}" for name in ("metrics.json", "predictions.jsonl")
    }
    assert read_lines(other / "predictions.jsonl") == read_lines(own / "predictions.jsonl")[:2]
    stored = json.loads((other / "metrics.json").read_text())
    assert stored["settings"] == {"num_rows": 2, "max_new_tokens": 8, "model": "base", "quantize": "none"}
    assert json.loads(result.stdout) == stored["metrics"]
    assert stored["metrics"]["num_rows"] == 2
    assert json.loads((own / "metrics.json").read_text())["metrics"]["num_rows"] == 3

    # neither is done again, and as many rows as there are is the run's own setting
    after = contents(trained)
    assert json.loads(cvft_ok("eval", trained, "eval.num_rows=2", "--model", "base").stdout) == stored["metrics"]
    again = cvft_ok("eval", trained, "eval.num_rows=3", "--model", "base")
    assert "answering" not in again.stderr
    assert contents(trained) == after


def test_a_model_is_asked_without_the_clips(trained):
    before = contents(trained)
    result = cvft_ok("eval", trained, "--model", "base", "--blind")
    folder = trained / "eval" / "base-blind"
    assert {name.rpartition("/")[0] for name in contents(trained).keys() - before.keys()} == {"eval/base-blind"}
    stored = json.loads((folder / "metrics.json").read_text())
    assert stored["settings"]["is_blind"] is True
    assert json.loads(result.stdout) == stored["metrics"]
    lines, seen = read_lines(folder / "predictions.jsonl"), read_lines(trained / "data" / "val.jsonl")
    assert [line["videos"] for line in lines] == [line["videos"] for line in seen]  # of which clip they are is kept
    cvft_ok("eval", trained, "--model", "base")
    with_clips = read_lines(trained / "eval" / "base" / "predictions.jsonl")
    assert [line["prediction"] for line in lines] != [line["prediction"] for line in with_clips]
    # rows of one question have one answer, whatever their clips show
    answers = {line["query"]: line["prediction"] for line in lines}
    assert all(line["prediction"] == answers[line["query"]] for line in lines)


@pytest.mark.long
def test_run_answers_on_the_ranks_that_trained(trained, monkeypatch, caplog):
    caplog.set_level("INFO")
    settings = ["export.merge=false", "export.verify_rows=8", "eval.compare_base=false", "eval.compare_blind=false"]
    two = ["parallel.strategy=ddp", "parallel.num_gpus=2", "eval.batch_rows=1"]
    words = ["run", str(trained), *settings, *two, "eval.max_new_tokens=5"]
    before = set((trained / "eval").glob("adapter*"))
    assert main(words) == 0  # there is too little to do
    assert "ranks" not in caplog.text
    (folder,) = set((trained / "eval").glob("adapter*")) - before
    alone = contents(folder)
    shutil.rmtree(folder)
    monkeypatch.setattr(placement, "MIN_BATCHES", 1)
    assert main(words) == 0
    assert "answers   by up to 2 ranks, each with a copy of the model" in caplog.text
    assert contents(folder) == alone
