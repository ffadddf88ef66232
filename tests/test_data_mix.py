"""Several files of rows: read with settings of their own, mixed by their weights in an order that the seed decides."""

from collections import Counter
from pathlib import Path

import pytest

from cvft.cli.main import main
from cvft.data.groups import FileShare, RowShape, clips_per_step, count_rows, make_steps, rows_of_epoch
from cvft.data.packing import BatchLimits
from cvft.errors import DataError
from cvft.plan.batching import RowFacts
from cvft.plan.forecast import forecast
from cvft.plan.job import open_job
from cvft.plan.prepare import prepare
from cvft.recipe import differing_settings, dump_recipe, load_recipe, weights_fingerprint
from cvft.train.sampler import GlobalBatchSampler
from tests.project import make_project, write_jsonl

MIXES = [
    [FileShare(10, 1.0), FileShare(7, 2.0), FileShare(9, 0.5)],
    [FileShare(10, 0.25), FileShare(3, 2.6)],
    [FileShare(1, 12.0), FileShare(40, 1.0)],
]


def text(words: str) -> dict:
    return {"query": words, "response": words}


@pytest.mark.parametrize("mix", MIXES, ids=str)
def test_rows_come_as_often_as_the_weight_of_their_file_says(mix):
    num_rows = sum(share.num_rows for share in mix)
    epochs = [rows_of_epoch(num_rows, mix, seed=3, epoch=epoch) for epoch in range(40)]
    assert {len(rows) for rows in epochs} == {count_rows(num_rows, mix)} == {sum(map(lambda s: s.num_per_epoch, mix))}
    first = 0
    for share in mix:
        own = range(first, first + share.num_rows)
        for num_epochs in (1, 3, 40):
            counts = Counter(row for rows in epochs[:num_epochs] for row in rows)
            expected = num_epochs * share.num_per_epoch / share.num_rows
            assert all(expected - 1 < counts[row] < expected + 1 for row in own), (share, num_epochs)
        first += share.num_rows
    assert epochs[0] == rows_of_epoch(num_rows, mix, seed=3, epoch=0)
    assert epochs[0] != rows_of_epoch(num_rows, mix, seed=4, epoch=0) or all(share.weight % 1 == 0 for share in mix)


@pytest.mark.parametrize("num_ranks", [1, 2, 4])
@pytest.mark.parametrize("max_rows", [1, 4])
def test_all_ranks_together_train_the_mix_whatever_their_number(num_ranks, max_rows):
    # every third row is of text only, and some steps have no row with a clip for a rank
    shapes = [RowShape((), 1, 9) if row % 3 == 0 else RowShape((row // 4,), 30, 9) for row in range(26)]
    limits = BatchLimits(8, max_rows, 1, 80)
    samplers = [
        GlobalBatchSampler(shapes, limits=limits, num_ranks=num_ranks, rank=rank, seed=5, mix=MIXES[0])
        for rank in range(num_ranks)
    ]
    for epoch in range(3):
        for sampler in samplers:
            sampler.set_epoch(epoch)
        steps = list(zip(*map(list, samplers), strict=True))
        assert len(steps) == len(samplers[0]) == 4
        assert all(len({len(own) for own in of_ranks}) == 1 for of_ranks in steps)  # as many passes on each
        trained = Counter(
            row for step in steps for own in step for batch in own for group in batch for row in group if row >= 0
        )
        assert trained == Counter(rows_of_epoch(26, MIXES[0], seed=5, epoch=epoch))
        orders = make_steps(shapes, global_batch_rows=8, max_rows_per_group=max_rows, seed=5, epoch=epoch, mix=MIXES[0])
        assert [sorted(row for group in step for row in group) for step in orders] == [
            sorted(row for own in step for batch in own for group in batch for row in group if row >= 0)
            for step in steps
        ]
    assert clips_per_step(shapes, global_batch_rows=8, max_rows_per_group=1, seed=5, mix=MIXES[0]) > 4


def test_without_a_mix_nothing_changes_and_what_older_runs_wrote_is_read():
    shapes = [RowShape((), 1, 9)] * 13
    options = {"global_batch_rows": 4, "max_rows_per_group": 1, "seed": 7}
    assert list(make_steps(shapes, **options)) == list(make_steps(shapes, **options, mix=[FileShare(13, 1.0)]))
    facts = RowFacts.from_json(
        '{"train": [{"clips": [], "num_prefix_tokens": 1, "num_question_tokens": 9}], "val": []}'
    )
    assert (facts.mix, facts.num_per_epoch) == ((), 1)


@pytest.fixture
def project(tmp_path) -> Path:
    (tmp_path / "csv").mkdir()
    (tmp_path / "csv" / "more.csv").write_text("question,answer\n" + "".join(f"q{row},r{row}\n" for row in range(6)))
    write_jsonl(tmp_path / "talk.json", [{"instruction": "i", "input": "", "output": "o"}] * 2)
    files = [
        "train.jsonl",
        {"path": "csv/more.csv", "weight": 2},
        {"path": "talk.json", "format": "alpaca", "weight": 0.5},
    ]
    rows = [text(f"word{row}") for row in range(4)]
    return make_project(tmp_path, rows=rows, val_rows=rows[:1], data={"train": files})


def test_a_recipe_names_files_with_weights_and_formats(project, tmp_path):
    loaded = load_recipe(project)
    sources = loaded.recipe.data.sources
    assert {key: (file.path, file.weight, file.format) for key, file in sources.items()} == {
        "data.train[0]": (tmp_path / "train.jsonl", 1.0, "auto"),
        "data.train[1]": (tmp_path / "csv" / "more.csv", 2.0, "auto"),
        "data.train[2]": (tmp_path / "talk.json", 0.5, "alpaca"),
        "data.val": (tmp_path / "val.jsonl", 1.0, "auto"),
    }
    (tmp_path / "again.yaml").write_text(dump_recipe(loaded.recipe))
    assert load_recipe(tmp_path / "again.yaml").recipe == loaded.recipe
    one = load_recipe(project, overrides=["data.train=[train.jsonl]"]).recipe
    single = load_recipe(project, overrides=["data.train=train.jsonl"]).recipe
    assert weights_fingerprint(one) == weights_fingerprint(single)  # which rows they are, a run records
    assert differing_settings(single, loaded.recipe) == [("data.train", None, [1.0, 2.0, 0.5])]


def test_the_plan_counts_the_mix_and_says_it(project, tmp_path):
    planned = forecast(load_recipe(project), gpu_name=None)
    facts = planned.prepared.row_facts
    assert [(share.num_rows, share.weight, share.num_per_epoch) for share in facts.mix] == [
        (4, 1, 4),
        (6, 2, 12),
        (2, 0.5, 1),
    ]
    assert (facts.num_per_epoch, planned.plan.worker.steps_per_epoch) == (17, 5)
    assert sum(batch.num_sequences for batch in planned.batches) == 17
    prepared = prepare(open_job(load_recipe(project)))
    assert RowFacts.from_json(prepared.row_facts.to_json()) == prepared.row_facts
    assert set(prepared.sources) == {"data.train[0]", "data.train[1]", "data.train[2]", "data.val"}


def test_plan_and_check_show_every_file(project, tmp_path, capsys):
    assert main(["plan", str(project)]) == 0
    said = capsys.readouterr().out.replace(f"{tmp_path}/", "")
    assert "mix       4 of 17 rows per epoch (24%) from train.jsonl: 4 x 1\n" in said
    assert "          12 of 17 rows per epoch (71%) from csv/more.csv: 6 x 2\n" in said
    assert "          1 of 17 rows per epoch (6%) from talk.json: 2 x 0.5\n" in said
    assert main(["check", str(project)]) == 1  # rows of the train file are held out too
    assert "train.jsonl, more.csv, talk.json, val.jsonl: 13 rows that can be read" in capsys.readouterr().out


def test_problems_of_all_files_are_one_error(project, tmp_path):
    write_jsonl(tmp_path / "train.jsonl", [{"query": "q"}])
    write_jsonl(tmp_path / "talk.json", [{"instruction": "i", "output": 3.5}, {"instruction": None, "output": "o"}])
    (tmp_path / "csv" / "more.csv").unlink()
    with pytest.raises(DataError) as caught:
        prepare(open_job(load_recipe(project)))
    assert [problem.where.replace(f"{tmp_path}/", "") for problem in caught.value.problems] == [
        "train.jsonl:1 `response`",
        "csv/more.csv",
        "talk.json:2",
    ]


def test_a_weight_that_leaves_no_row_is_refused(project, monkeypatch):
    monkeypatch.chdir(project.parent)
    with pytest.raises(DataError) as caught:
        prepare(open_job(load_recipe(project, overrides=["data.train=[train.jsonl, {path: talk.json, weight: 0.1}]"])))
    assert "data.train[1].weight: got 2 rows x 0.1, need at least half a row in an epoch" in str(caught.value)
