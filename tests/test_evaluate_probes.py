"""Probe sets: asked of base and tuned model, shown with what was unlearnt, and refused before anything trains."""

import json
from pathlib import Path

import pytest

from cvft.cli.main import main
from cvft.evaluate.compare import compare_predictions
from cvft.report.results import describe_probe
from tests.judge_server import judging
from tests.project import ROWS, cvft, cvft_ok, files_under, make_project, with_real_clips, write_jsonl
from tests.real_clips import real_clip
from tests.test_evaluate_compare import lines
from tests.trained import copy_of_trained_project

PROBES = [
    {"query": "What colour is it?", "response": "red", "category": "colour"},
    {"query": "What is shown?", "response": "a dog", "videos": ["bikes.mp4"], "category": "thing"},
    {"query": "How many?", "response": "two", "videos": ["carphone_pristine.mp4"]},
]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    return copy_of_trained_project(tmp_path_factory)


def test_base_and_tuned_model_are_asked_and_the_report_shows_both(recipe, capsys):
    run = recipe.parent / "runs" / "small"
    general = write_jsonl(recipe.parent / "general <b>.jsonl", with_real_clips(PROBES))
    other = write_jsonl(recipe.parent / "other.jsonl", with_real_clips(PROBES[:1]))
    setting = f"eval.probes={json.dumps([str(general), str(other)])}"
    result = cvft_ok("run", recipe, setting)
    # beside the val rows, with the same metrics
    tables = [line for line in result.stdout.splitlines() if line.endswith("rows") and "base" in line]
    assert [line.split("  ")[0] for line in tables] == ["val exact match", "probe general <b>", "probe other"]
    assert "probe general <b>: merged against base: fewer than 10 clips" in result.stdout
    folders = {
        model: {
            path.name.rpartition("-")[0]: path for path in (run / "eval").glob(f"{model}-*") if "blind" not in path.name
        }
        for model in ("base", "merged")
    }
    assert {name for found in folders.values() for name in found} == {
        f"{model}-{name}" for model in ("base", "merged") for name in ("general--b-", "other")
    }
    stored = json.loads((run / "report.json").read_text())
    assert list(stored["probes"]) == ["general <b>", "other"]
    for model, found in folders.items():
        metrics = json.loads((found[f"{model}-general--b-"] / "metrics.json").read_text())["metrics"]
        assert stored["probes"]["general <b>"][model] == metrics
        assert metrics["num_rows"] == 3
        assert set(metrics["categories"]) == {"colour", "thing"}
    assert list(stored["metrics"])[-2:] == ["base", "merged"]  # the val rows stay what the page is about
    assert stored["metrics"]["merged"]["num_rows"] == 3
    page = (run / "report.html").read_text()
    assert "Probe set general &lt;b&gt;" in page
    assert "<b>" not in page
    assert "Probe set other" in page

    # from what is stored, by the recipe that names them
    before = {name: (run / name).read_bytes() for name in files_under(run)}
    (run / "report.json").unlink()
    assert main(["report", str(recipe), setting]) == 0
    assert json.loads((run / "report.json").read_text())["probes"] == stored["probes"]
    assert {name: (run / name).read_bytes() for name in files_under(run)} == before
    # nothing is asked twice
    again = cvft_ok("run", recipe, setting)
    assert "answering" not in again.stderr
    assert again.stdout == result.stdout
    # of a model that was asked about other rows since, nothing is set beside the tuned one's
    write_jsonl(general, with_real_clips(PROBES[1:]))
    capsys.readouterr()
    assert main(["eval", str(recipe), "--model", "merged", "--data", str(general)]) == 0
    assert main(["report", str(recipe), f"eval.probes=[{json.dumps(str(general))}]"]) == 0
    shown = json.loads((run / "report.json").read_text())["probes"]
    assert {name: list(answered) for name, answered in shown.items()} == {"general <b>": ["merged"]}
    assert shown["general <b>"]["merged"]["num_rows"] == 2


def test_what_a_judge_said_stands_in_the_report_of_the_run(recipe, capsys):
    run = recipe.parent / "runs" / "small"

    def says(prediction: str, number: int) -> str:
        return '{"verdict": "yes", "score": 5}' if number == 1 else '{"verdict": "no", "score": 0}'

    with judging(says) as server:
        words = ["judge", f"{run}:base", str(run), "--url", server.url, "--judge-model", "a judge", "--workers", "1"]
        assert main(words) == 0
        assert "says the same (a judge): yes" in capsys.readouterr().out
    assert main(["report", str(run)]) == 0
    stored = json.loads((run / "report.json").read_text())["judged"]
    for model in ("base", "merged"):
        (said,) = stored[model]
        assert (said["num_cases"], said["num_missing"]) == (3, 0)
        assert said["settings"]["judge"] == "a judge"
    page = (run / "report.html").read_text()
    assert "Graded by a judge" in page
    assert "says the same (a judge): without a score" in page
    # of answers that are others by now it says nothing
    path = run / "eval" / "base" / "predictions.jsonl"
    path.write_text(path.read_text() + "\n")
    assert main(["report", str(run)]) == 0
    assert json.loads((run / "report.json").read_text())["judged"]["base"] == []
    assert "is of answers that were replaced since" in (run / "report.html").read_text()


def test_what_cannot_be_asked_is_refused_before_anything_trains(tmp_path):
    whole = real_clip("bikes.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    recipe = make_project(tmp_path)
    bad = write_jsonl(tmp_path / "bad.jsonl", [{"query": "Who?"}, *PROBES[:1], {"response": "a"}])
    worse = write_jsonl(tmp_path / "worse.jsonl", [{"query": "Who?", "response": ""}])
    cut = write_jsonl(tmp_path / "cut.jsonl", [{"query": "Who?", "response": "me", "videos": ["cut.mp4"]}])
    cases = {
        f"[{bad}, {worse}]": ("bad.jsonl:1", "bad.jsonl:3", "worse.jsonl:1"),
        f"[{tmp_path / 'none.jsonl'}]": ("none.jsonl",),
        f"[{cut}]": ("cut.jsonl:1", "cut off"),
    }
    for probes, expected in cases.items():
        for command in ("train", "plan") if "cut" not in probes else ("train",):
            refused = cvft(command, recipe, f"eval.probes={probes}", "data.on_bad_clip=quarantine")
            assert refused.returncode == 2, refused.stderr
            for words in expected:
                assert words in refused.stderr, (command, words)
    assert not list((tmp_path / "runs").glob("small/adapter*"))
    assert not list((tmp_path / "runs").glob("small/train/checkpoint*"))


def test_rows_that_are_trained_on_are_said(tmp_path):
    probes = write_jsonl(tmp_path / "probes.jsonl", [*with_real_clips(ROWS[:2]), *with_real_clips(PROBES)])
    recipe = make_project(tmp_path, eval={"probes": ["probes.jsonl"]})
    said = cvft_ok("plan", recipe).stdout
    assert f"{probes.name}: 2 of 5 probe rows are trained on too: they show nothing of what is unlearnt" in said
    assert "rows      6 train, 3 val" in said  # probe rows are neither


def test_what_was_unlearnt_is_said_where_it_is_no_chance() -> None:
    better, worse = lines(), lines(wrong=set(range(0, 48, 3)))
    names = {"name": "general", "first": "base", "second": "merged"}
    said = describe_probe(compare_predictions(better, worse), **names)
    assert said[-1] == "probe general: training made the model worse at it, by more than chance explains"
    assert said[0].startswith("probe general: merged against base: -33.3 points of exact match")
    for comparison in (
        compare_predictions(worse, better),
        compare_predictions(better, better),
        compare_predictions(better, lines(wrong={1})),
        compare_predictions(lines(num_clips=5), lines(num_clips=5, wrong=set(range(48)))),
    ):
        assert not any("made the model worse" in line for line in describe_probe(comparison, **names))
