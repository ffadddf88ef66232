"""Which checkpoint is the best, when a training ends early, and what they can be told by."""

import json
from pathlib import Path
from typing import get_args

import pytest

from cvft.data.rows import Row
from cvft.evaluate.metrics.rows import metrics_of, spread_evenly
from cvft.recipe.result_rules import LOSS_METRICS
from cvft.recipe.schema import SelectBy
from cvft.train.checkpoints import ASIDE, find_best_checkpoint, is_end, prune, publish
from cvft.train.marks import CheckpointMark, read_mark
from cvft.train.selection import Measurement, describe_end, ends_early, find_best, read_measurements
from tests.project import make_project

NAN = float("nan")


def measured(*values: float) -> list[Measurement]:
    return [Measurement(10 * number, value) for number, value in enumerate(values, 1)]


@pytest.mark.parametrize(
    ("by", "values", "step"),
    [
        ("eval_loss", (3.0, 1.0, 2.0), 20),
        ("eval_loss", (1.0, 1.0, 1.0), 10),  # the earliest of equals
        ("eval_loss", (NAN, 2.0, -float("inf")), 20),
        ("eval_exact_match", (0.1, 0.5, 0.4), 20),
        ("eval_token_acc", (NAN, NAN), None),
        ("eval_cider_d", (), None),
    ],
)
def test_the_best_is_the_earliest_of_the_best(by, values, step):
    best = find_best(measured(*values), by=by)
    assert (best.step if best else None) == step


@pytest.mark.parametrize(
    ("values", "patience", "ends_after"),
    [
        ((3.0, 2.0, 1.0, 0.5), 1, None),
        ((3.0, 3.0, 2.0), 1, 20),  # no better is not better
        ((3.0, 4.0, 2.0, 2.5, 2.1, 1.0), 2, 50),
        ((3.0, 4.0, NAN, 5.0), 2, 30),
        ((3.0, 4.0, 5.0), None, None),
        ((NAN, NAN, NAN), 1, None),
    ],
)
def test_a_training_ends_when_it_has_not_got_better_and_the_past_alone_decides(values, patience, ends_after):
    every = measured(*values)
    decisions = [ends_early(every[:count], by="eval_loss", patience=patience) for count in range(len(every) + 1)]
    first = decisions.index(True) if True in decisions else None
    assert (None if first is None else every[first - 1].step) == ends_after


def test_an_end_is_told_from_the_log():
    log = [
        {"step": 5, "loss": 3.0},
        {"step": 5, "eval_loss": 1.25},
        {"step": 10, "eval_loss": 2.0, "eval_token_acc": 1},
    ]
    found = read_measurements(log, by="eval_loss")
    assert found == [Measurement(5, 1.25), Measurement(10, 2.0)]
    assert describe_end(found, by="eval_loss", num_steps=90) == (
        "the training ended after step 10 of 90: eval_loss was best at step 5 (1.25) and not better in the 1 measurements since "
        "(train.early_stop_evals)"
    )


def save(train: Path, step: int, **values: object) -> Path:
    folder = train / ASIDE / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "file").write_text("x")
    mark = {"strategy": "single", "num_ranks": 1, "eval_loss": None, **values}
    return publish(train, CheckpointMark(step, **mark))


def test_the_best_by_any_metric_and_one_that_is_asked_for_stay(tmp_path):
    for step, loss, score in ((2, 0.1, 0.2), (4, 0.5, 0.9), (6, 0.4, 0.9), (8, 0.7, 0.1), (10, 0.9, 0.3)):
        save(tmp_path, step, eval_loss=loss, metrics={"eval_rouge_l": score})
    assert find_best_checkpoint(tmp_path).name == "checkpoint-2"
    assert find_best_checkpoint(tmp_path, by="eval_rouge_l").name == "checkpoint-4"
    assert find_best_checkpoint(tmp_path, by="eval_bleu") is None
    prune(tmp_path, keep=1, by="eval_rouge_l", asked=6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-4", "checkpoint-6"]


def test_a_mark_that_says_no_more_than_marks_could_before_is_written_as_they_were(tmp_path):
    plain = json.loads((save(tmp_path, 2, eval_loss=0.5) / "cvft_checkpoint.json").read_text())
    assert plain["mark"] == {"step": 2, "strategy": "single", "num_ranks": 1, "eval_loss": 0.5}
    last = save(tmp_path, 4, metrics={"eval_token_f1": 0.25}, is_final=True)
    mark = read_mark(last)
    assert (mark.value_of("eval_token_f1"), mark.value_of("eval_loss"), mark.is_final) == (0.25, None, True)
    assert is_end(last, num_steps=90)
    assert not is_end(tmp_path / "checkpoint-2", num_steps=90)
    assert is_end(tmp_path / "checkpoint-2", num_steps=2)


def row(response: str, query: str = "What?") -> Row:
    return Row(query, response, (), (), source=Path("r.jsonl"), line=1)


def test_every_metric_to_choose_by_is_one_of_some_answers_and_the_loss():
    kinds = [
        [row("a man walks over a long bridge"), row("two dogs run through the green grass")],
        [row("B", "Which? A. a dog B. a cat"), row("yes"), row("from 3 to 7"), row("at 3 s"), row("12")],
        [row("red"), row("blue"), row("red"), row("blue")] * 5,
    ]
    found = {f"eval_{name}" for rows in kinds for name in metrics_of(rows)} | set(LOSS_METRICS)
    assert set(get_args(SelectBy)) <= found


@pytest.mark.parametrize("num_rows", [1, 2, 7, 100])
@pytest.mark.parametrize("count", [None, 1, 3, 7, 200])
def test_rows_are_picked_over_the_whole_file_each_once(num_rows, count):
    picked = spread_evenly(num_rows, count)
    assert len(picked) == min(count or 0, num_rows)
    assert picked == sorted(set(picked))
    gaps = [after - before for before, after in zip([0, *picked], [*picked, num_rows], strict=True)] if picked else [0]
    assert max(gaps) <= -(-num_rows // max(1, len(picked)))


REFUSED = {
    "export.checkpoint: got `3`, need a multiple of 2 (train.save_steps) below 8, or 8, the last step": {
        "export": {"checkpoint": 3}
    },
    "train.save_steps: got one every 2 steps, and the val loss is measured every 3": {
        "train": {"eval_steps": 3},
        "export": {"checkpoint": "best"},
    },
    "train.select_by: got `eval_interval_tiou`, which the 3 rows that are answered have not, need one of `eval_loss`, "
    "`eval_token_acc`, `eval_exact_match`, `eval_token_f1`, `eval_rouge_l`": {
        "train": {"select_by": "eval_interval_tiou", "eval_answers": 3}
    },
    "train.report_to: got `swanlab`, need the package swanlab, which is not installed\n    hint: pip install swanlab": {
        "train": {"report_to": ["tensorboard", "swanlab"]}
    },
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_cannot_be_chosen_is_told_before_training(tmp_path, text, capsys):
    from cvft.cli.main import main

    sections = {**REFUSED[text], "train": {"max_steps": 8, **REFUSED[text].get("train", {})}}
    recipe = make_project(tmp_path, **sections)
    assert main(["train", str(recipe)]) == 2
    assert text in capsys.readouterr().err
    assert not (tmp_path / "runs" / "small").exists()
