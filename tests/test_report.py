"""Curves and the page: what is read, what is shown, and that nothing in it can act or be loaded."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from cvft.errors import RunError
from cvft.evaluate.metrics import compute_metrics
from cvft.evaluate.run import Evaluation
from cvft.plan.job import open_job
from cvft.recipe import load_recipe
from cvft.report import Answer, Example, plot_curves, read_log, write_report
from cvft.report.run import write_run_report
from tests.broken_json import MANIFEST
from tests.project import make_project, write_jsonl

PNG = b"\x89PNG\r\n\x1a\n"
ATTACK = "<script>alert('1')</script> & \"quoted\" </style>"


def write_log(path: Path, lines: Sequence[dict[str, Any] | str]) -> Path:
    text = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(text), encoding="utf-8")
    return path


def at(step: int, **numbers: object) -> dict[str, Any]:
    return {**numbers, "global_step/max_steps": f"{step}/40"}


class Page(HTMLParser):
    """What a browser would see: the tags with their attributes, and the text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def example(**changes: Any) -> Example:
    values: dict[str, Any] = {
        "video": "clips/a.mp4",
        "question": "What colour?",
        "expected": "red",
        "answers": {"base": Answer("blue", is_right=False), "tuned": Answer("red", is_right=True)},
        "frames_jpeg": [b"\xff\xd8one", b"\xff\xd8two"],
        "seconds": [0, 7],
    }
    return Example(**{**values, **changes})


def test_a_log_is_read_by_step(tmp_path: Path) -> None:
    path = write_log(
        tmp_path / "logging.jsonl",
        [
            at(5, loss=2.5, learning_rate=1e-4, **{"memory(GiB)": 0.1, "elapsed_time": "1s"}),
            "",
            at(10, loss=2.0),
            at(10, eval_loss=2.25),
            {"last_model_checkpoint": "x", "global_step": 10, "best_metric": 1.0},
        ],
    )
    assert read_log(path) == {
        5: {"loss": 2.5, "learning_rate": 1e-4, "memory(GiB)": 0.1},
        10: {"loss": 2.0, "eval_loss": 2.25},
    }


def test_a_resumed_log_keeps_the_later_numbers_of_a_step(tmp_path: Path) -> None:
    path = write_log(tmp_path / "l", [at(5, loss=3.0), at(10, loss=9.0), at(10, loss=2.0), at(15, loss=1.0)])
    assert [numbers["loss"] for numbers in read_log(path).values()] == [3.0, 2.0, 1.0]


def test_half_a_last_line_is_passed_over(tmp_path: Path) -> None:
    assert read_log(write_log(tmp_path / "l", [at(5, loss=3.0), '{"loss": 2.'])) == {5: {"loss": 3.0}}


@pytest.mark.parametrize("line", ['{"loss": 2.', "[1]"])
def test_a_broken_line_is_an_error(tmp_path: Path, line: str) -> None:
    path = write_log(tmp_path / "l", [at(5, loss=3.0), line, at(10, loss=1.0)])
    with pytest.raises(RunError) as caught:
        read_log(path)
    assert str(caught.value) == f"log {path} has 1 problem\n  {path}:2: got `{line}`, need a JSON object"


def test_no_log_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "l"
    with pytest.raises(RunError) as caught:
        plot_curves(path, folder=tmp_path)
    assert str(caught.value) == f"log {path} has 1 problem\n  {path}: got no such file, need the log of a training"


def test_curves_are_pictures(tmp_path: Path) -> None:
    log = write_log(
        tmp_path / "l",
        [at(step, loss=3 / step, learning_rate=1e-4) for step in range(1, 6)] + [at(5, eval_loss=1.0)],
    )
    folder = tmp_path / "new/curves"
    pictures = plot_curves(log, folder=folder)
    assert pictures == [folder / "loss.png", folder / "learning_rate.png"]
    assert sorted(folder.iterdir()) == sorted(pictures)
    assert all(picture.read_bytes().startswith(PNG) for picture in pictures)


def test_the_curves_show_the_numbers_of_the_log(tmp_path: Path) -> None:
    """A val point that moves must move the picture, and the train line stays blue: read from the pixels."""
    from PIL import Image

    def blue_and_orange(**val: float) -> tuple[bool, bool]:
        log = write_log(tmp_path / "l", [at(1, loss=3.0), at(2, loss=2.0), at(2, **val)])
        with Image.open(plot_curves(log, folder=tmp_path)[0]) as picture:
            colors = {color for _, color in picture.convert("RGB").getcolors(maxcolors=1 << 24) or []}
        return (0x25, 0x63, 0xEB) in colors, (0xD9, 0x77, 0x06) in colors

    assert blue_and_orange(eval_loss=1.0) == (True, True)
    assert blue_and_orange(grad_norm=1.0) == (True, False)


def test_a_curve_without_points_is_not_drawn(tmp_path: Path) -> None:
    assert plot_curves(write_log(tmp_path / "l", [at(1, grad_norm=3.0)]), folder=tmp_path) == []
    only_val = write_log(tmp_path / "l", [at(1, eval_loss=3.0)])
    assert [path.name for path in plot_curves(only_val, folder=tmp_path)] == ["loss.png"]


def test_the_page_shows_what_it_was_given(tmp_path: Path) -> None:
    curve = tmp_path / "loss.png"
    curve.write_bytes(PNG + b"x")
    said = {"base": ["blue", "2 s"], "tuned": ["red", "2 s"]}
    metrics = {
        name: compute_metrics(answers, expected=["red", "2 s"], categories=["colour", "time"])
        for name, answers in said.items()
    }
    path = write_report(
        tmp_path / "new/report.html",
        title="my_run",
        summary={"Steps": 40},
        metrics=metrics,
        findings=["won more than chance"],
        curves=[curve],
        examples=[example()],
    )
    page = Page(path)
    text = " ".join(page.text.split())
    heads = "RowsExact matchToken F1ROUGE-LNo answerCut"
    assert f"my_run Steps40 Results {heads} base250.0 %50.0 %50.0 %0– tuned2100.0 %" in text
    assert "By kind of answer Rowsbasetuned second: within 0 s1100.0 %100.0 %" in text
    assert "Exact match by category Rowsbasetuned colour10.0 %100.0 % time1100.0 %100.0 %" in text
    assert "clips/a.mp4 0 s 7 s What colour? expectedred base✗blue tuned✓red" in text
    assert "won more than chance" in text
    assert [float(attrs["width"] or "") for tag, attrs in page.tags if tag == "rect"] == [0, 100, 100, 100]  # the bars
    sources = [attrs["src"] for tag, attrs in page.tags if tag == "img"]
    data = [(PNG + b"x", "png"), (b"\xff\xd8one", "jpeg"), (b"\xff\xd8two", "jpeg")]
    assert sources == [f"data:image/{kind};base64,{base64.b64encode(raw).decode()}" for raw, kind in data]
    assert list(path.parent.iterdir()) == [path]  # nothing is left beside it


def test_text_cannot_act(tmp_path: Path) -> None:
    page = Page(
        write_report(
            tmp_path / "r.html",
            title=ATTACK,
            summary={ATTACK: ATTACK},
            metrics={ATTACK: {"num_rows": ATTACK, "exact_match": 0.5, "categories": {ATTACK: {"num_rows": ATTACK}}}},
            findings=[ATTACK],
            examples=[
                example(video=ATTACK, question=ATTACK, expected=ATTACK, answers={ATTACK: Answer(ATTACK, is_right=True)})
            ],
        )
    )
    allowed = "html head meta title style body main h1 dl div dt dd section h2 table thead tr th tbody td h3 article p"
    allowed += " figure img figcaption span"
    assert {tag for tag, _ in page.tags} == set(allowed.split())
    attributes = {key for tag, attrs in page.tags for key in attrs if tag != "meta"}
    assert attributes == {"lang", "class", "alt", "src", "style", "role", "aria-label"} - {"style"}
    # title twice (head and heading), summary 2, metrics 2, finding 1, categories 3, example 5
    assert page.text.count("<script>alert('1')</script> & \"quoted\"") == 15


def test_nothing_is_loaded_from_outside(tmp_path: Path) -> None:
    page = Page(
        write_report(tmp_path / "r.html", title="t", summary={}, metrics={}, examples=[example(video="http://x/a.mp4")])
    )
    for _, attrs in page.tags:
        assert not {"href", "srcset", "action", "onload", "style"} & set(attrs)
        assert (attrs.get("src") or "data:").startswith("data:")
    policies = [attrs["content"] for _, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy"]
    style = re.findall("<style>(.*?)</style>", page.source, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256("".join(style).encode()).digest()).decode()
    assert policies == [
        f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    ]
    assert "url(" not in page.text
    assert "@import" not in page.text


@pytest.mark.parametrize("is_right", [True, False])
def test_a_mark_is_the_verdict_that_came_with_the_answer(tmp_path: Path, is_right: bool) -> None:
    """The page has no rule of its own, or marks and metrics could disagree."""
    rows = [example(expected="red", answers={"tuned": Answer(said, is_right=is_right)}) for said in ("red", "blue")]
    text = Page(write_report(tmp_path / "r.html", title="t", summary={}, metrics={}, examples=rows)).text
    assert (text.count("✓"), text.count("✗")) == ((2, 0) if is_right else (0, 2))


def test_answers_are_shown_as_the_evaluation_stored_them(tmp_path: Path) -> None:
    rows = [{"query": f"Which colour is thing {number}?", "response": "red"} for number in range(2)]
    job = open_job(load_recipe(make_project(tmp_path, rows=rows, val_rows=rows)))
    evaluation = Evaluation(job.run.evaluation("base"), {})
    for folder in (job.run.data, job.run.train, evaluation.folder):
        folder.mkdir(parents=True)
    write_jsonl(job.run.val_rows, rows)
    write_log(job.run.train / "logging.jsonl", [at(1, loss=1.0)])
    job.run.manifest_file.write_text(json.dumps(MANIFEST), encoding="utf-8")
    lines = [
        {"response": "red", "prediction": "a\u2028b\x85c", "is_exact_match": False},  # two ends of line, for str alone
        {"response": "red", "prediction": "red", "is_exact_match": True},
    ]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (evaluation.folder / "predictions.jsonl").write_text(text, encoding="utf-8")
    assert evaluation.read_predictions() == lines
    page = Page(write_run_report(job, evaluations={"base": evaluation}))
    shown = page.text[page.text.index("Which colour is thing 0?") :]
    answers = [(mark, said) for mark, said in re.findall("(?s)base\\s*([✓✗])\\s*(a.b.c|red)", shown)]
    assert answers == [("✗", "a\u2028b\x85c"), ("✓", "red")]


def test_an_empty_answer_is_shown_as_such(tmp_path: Path) -> None:
    said = [Answer(text, is_right=False) for text in (" ", "half \ud800")]
    rows = [example(answers={"tuned": answer}) for answer in said]
    page = Page(write_report(tmp_path / "r.html", title="t", summary={}, metrics={}, examples=rows))
    assert "no answer" in page.text
    assert "half ?" in page.text


def test_sections_without_content_are_left_out(tmp_path: Path) -> None:
    page = Page(write_report(tmp_path / "r.html", title="t", summary={}, metrics={}))
    assert "h2" not in {tag for tag, _ in page.tags}


def test_missing_numbers_show_as_a_dash(tmp_path: Path) -> None:
    metrics: dict[str, dict[str, object]] = {
        "base": {"num_rows": 0, "exact_match": None},
        "tuned": {"kinds": {"seconds": {"num_rows": 0, "median_error_s": None, "within_0_s": None}}},
    }
    page = Page(write_report(tmp_path / "r.html", title="t", summary={}, metrics=metrics))
    text = " ".join(page.text.split())
    assert "RowsExact matchToken F1ROUGE-LNo answerCut base0––––– tuned––––––" in text
    assert "second: median error0––" in text


def test_a_failed_write_leaves_the_old_page(tmp_path: Path) -> None:
    path = write_report(tmp_path / "r.html", title="old", summary={}, metrics={})
    with pytest.raises(FileNotFoundError):
        write_report(path, title="new", summary={}, metrics={}, curves=[tmp_path / "gone.png"])
    assert "old" in Page(path).text
    with pytest.raises(AssertionError, match="one second per thumbnail"):
        write_report(path, title="new", summary={}, metrics={}, examples=[example(seconds=[1])])
