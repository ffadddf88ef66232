"""What a page says of a training: its pace and memory, how answers changed, and what was odd about the data."""

import json
import random
from dataclasses import asdict

from cvft.data.doctor.check import CheckUp
from cvft.data.doctor.findings import Finding
from cvft.data.video.loader import DecodeSettings
from cvft.data.video.sample import Sampling
from cvft.errors import Problem
from cvft.plan.health import read_health, sum_up
from cvft.report import write_report
from cvft.report.answered import MAX_CHANGES, MAX_ROWS, follow_answers
from cvft.report.charts import draw
from cvft.report.curves import MAX_POINTS, Pace, make_charts
from cvft.runs import RunFolder
from cvft.training_log import StepTime, ValAnswer, read_step_times, read_val_answers

GIB = 2**30


def charts_of(pace: Pace) -> dict[str, dict[str, list[tuple[int, float]]]]:
    return {
        chart.title: {name: list(line) for name, line in chart.series.items()} for chart in make_charts({}, pace=pace)
    }


def test_pace_counts_the_rows_that_a_step_held():
    times = [StepTime(step, 2.0, 0.5, step * GIB) for step in (1, 2, 3, 4)]
    # 10 rows, 4 a step: the third step of an epoch holds two
    found = charts_of(Pace(times, num_rows=10, global_batch_rows=4, device="cpu"))
    assert found["Rows per second"][""] == [(1, 2.0), (2, 2.0), (3, 1.0), (4, 2.0)]
    assert found["Seconds per step"] == {
        "in all": [(step, 2.0) for step in (1, 2, 3, 4)],
        "waiting for rows": [(step, 0.5) for step in (1, 2, 3, 4)],
    }
    assert found["Memory of the first process in GiB"][""] == [(step, float(step)) for step in (1, 2, 3, 4)]
    on_gpu = charts_of(Pace(times, num_rows=10, global_batch_rows=4, device="cuda"))
    assert "GPU memory of the first rank in GiB, the most so far" in on_gpu


def test_a_long_training_is_drawn_in_few_points_that_hold_all_its_time():
    dice = random.Random(5)
    times = [StepTime(step, dice.random() + 0.1, dice.random() / 10, dice.randrange(GIB)) for step in range(1, 10_008)]
    found = charts_of(Pace(times, num_rows=8 * 10_007, global_batch_rows=8, device="cpu"))
    rates = found["Rows per second, 34 steps a point"][""]
    assert len(rates) <= MAX_POINTS
    assert rates[-1][0] == 10_007
    seconds = found["Seconds per step, 34 steps a point"]["in all"]
    counts = [34] * (len(seconds) - 1) + [10_007 - 34 * (len(seconds) - 1)]
    assert (
        abs(sum(mean * count for (_, mean), count in zip(seconds, counts, strict=True)) - sum(t.step_s for t in times))
        < 1e-6
    )
    assert (
        abs(
            sum(8 * count / rate for (_, rate), count in zip(rates, counts, strict=True)) - sum(t.step_s for t in times)
        )
        < 1e-6
    )


def test_zeros_alone_are_drawn_at_the_bottom():
    chart = next(iter(make_charts({1: {"eval_exact_match": 0.0}, 2: {"eval_exact_match": 0.0}})))
    assert "−" not in draw(chart)
    assert ">-" not in draw(chart)


def test_a_metric_that_checkpoints_are_chosen_by_has_a_curve():
    log = {2: {"eval_exact_match": 0.0, "eval_interval_tiou": 0.5}}
    assert [chart.title for chart in make_charts(log)] == ["Answers to val rows"]
    titles = [chart.title for chart in make_charts(log, select_by="eval_interval_tiou")]
    assert titles == ["Answers to val rows", "Answers to val rows: interval tiou"]


def test_times_of_steps_are_read_over_several_starts(tmp_path):
    def line(step: int, step_s: float) -> str:
        return json.dumps({"step": step, "step_s": step_s, "step_waited_s": 0.25, "memory_bytes": 7, "waited_s": 9.0})

    first, second = tmp_path / "earlier", tmp_path / "now"
    first.write_text(
        "\n".join(['{"encoded": 1, "num_clips": 2}', '{"step": 0}', line(1, 1.0), line(2, 2.0), line(3, 3.0)])
    )
    second.write_text("\n".join(['{"step": 1}', line(2, 4.0), '{"step": 2, "loss": 3.5}', '{"step": 3, "step_s']))
    assert read_step_times(first, second) == [
        StepTime(1, 1.0, 0.25, 7),
        StepTime(2, 4.0, 0.25, 7),
        StepTime(3, 3.0, 0.25, 7),
    ]
    assert read_step_times(tmp_path / "none") == []


def answer(step: int, text: str, line: int = 1) -> dict[str, object]:
    said = {"step": step, "line": line, "query": "Who?", "expected": "a man", "prediction": text}
    return {**said, "is_exact_match": text == "a man"}


def test_answers_are_read_row_by_row_and_the_later_ones_of_a_step_stand(tmp_path):
    file = tmp_path / "answers.jsonl"
    lines = [answer(2, "x", line=5), answer(2, "y"), answer(4, "old"), answer(4, "a man"), answer(4, "z", line=5)]
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines) + '{"step": 6, "li')
    assert [(each.line, each.step, each.prediction) for each in read_val_answers(file)] == [
        *((1, 2, "y"), (1, 4, "a man")),
        *((5, 2, "x"), (5, 4, "z")),
    ]


def test_equal_answers_one_after_the_other_are_one():
    said = [ValAnswer(**answer(step, text)) for step, text in ((2, "a"), (4, "a"), (6, "a man"), (8, "a"))]
    followed = follow_answers(said)
    assert followed == {
        "rows": [
            {
                "line": 1,
                "query": "Who?",
                "expected": "a man",
                "said": [
                    {"steps": "steps 2 to 4", "text": "a", "right": False},
                    {"steps": "step 6", "text": "a man", "right": True},
                    {"steps": "step 8", "text": "a", "right": False},
                ],
                "num_left_out": 0,
            }
        ],
        "num_more": 0,
    }
    assert follow_answers([]) is None
    many = [ValAnswer(**answer(step, str(step), line)) for line in range(MAX_ROWS + 3) for step in range(20)]
    followed = follow_answers(many)
    assert (len(followed["rows"]), followed["num_more"]) == (MAX_ROWS, 3)
    shown = [each["text"] for each in followed["rows"][0]["said"]]
    assert shown == ["0", *map(str, range(20 - MAX_CHANGES + 1, 20))]
    assert followed["rows"][0]["num_left_out"] == 20 - MAX_CHANGES


ATTACK = "</li><script>document.title = 'hit'</script>&amp;\u2028"


def test_data_health_is_counted_by_kind_with_first_examples_and_cannot_act(tmp_path):
    found = [Finding("black", Problem(f"t.jsonl:{number}", "black pictures", "others")) for number in range(5)]
    found.append(Finding("row_refused", Problem(ATTACK, ATTACK, "b", "c")))
    health = sum_up(CheckUp([], DecodeSettings(Sampling()), [], {}, 4, 0, found, 2))
    assert [(kind.id, kind.severity, kind.count, len(kind.examples)) for kind in health.kinds] == [
        ("row_refused", "error", 1, 1),
        ("black", "warning", 5, 3),
    ]
    run = RunFolder(tmp_path)
    assert read_health(run) is None
    values = {"answered": follow_answers([ValAnswer(**{**answer(2, ATTACK), "query": ATTACK, "expected": ATTACK})])}
    page = write_report(
        tmp_path / "r.html", title="t", summary={}, metrics={}, health=asdict(health), **values
    ).read_text()
    assert "<strong>warning</strong> black pictures where the model looks: 5" in page
    assert "and 2 more: cvft check --output check.json lists all" in page
    assert "2 clips of the two files were not compared by what they look like" in page
    assert "document.title = 'hit'</script>" not in page
    assert page.count("&lt;/li&gt;&lt;script&gt;") == 5
