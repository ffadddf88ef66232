"""Curves and the page: what is read, what is shown, and that nothing in it can act or be loaded."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from cvft.data.rows import Row
from cvft.errors import RunError
from cvft.evaluate.metrics import compute_metrics, score_rows
from cvft.evaluate.run import Evaluation
from cvft.files import hash_file
from cvft.plan.job import open_job
from cvft.recipe import load_recipe
from cvft.report import plot_curves, read_log, write_report
from cvft.report.cards import build_cards
from cvft.report.charts import Chart
from cvft.report.frames import ClipFrames, collect_frames
from cvft.report.run import rewrite_report, write_run_report
from cvft.runs import claim_run_folder
from tests.broken_json import MANIFEST, broken_forms
from tests.fixtures_video import make_clip
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
        if self.tags and self.tags[-1][0] not in ("style", "script"):
            self.text += data

    def cards(self) -> dict[str, Any]:
        """What the page's script is given."""
        (text,) = re.findall('<script type="application/json" id="cards">(.*?)</script>', self.source, re.DOTALL)
        found: dict[str, Any] = json.loads(text)
        return found


def cards(
    *answers: tuple[str, str], expected: str = "red", query: str = "What colour?", clip: str = "a.mp4"
) -> dict[str, Any]:
    """One row, answered by each of (name, text)."""
    row = Row(query, expected, (), (Path("clips") / clip,), source=Path("val.jsonl"), line=1)
    predictions = {
        name: [{"prediction": text, **score.to_json()}]
        for name, text in answers
        for score in score_rows([text], expected=[expected], queries=[query])
    }
    frames = {row.videos[0]: ClipFrames(clip, [0, 7], [b"RIFFone", b"RIFFtwo"])}
    return build_cards([row], predictions, frames=frames)


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


def test_a_log_of_any_other_form_is_read_or_one_error(tmp_path: Path) -> None:
    whole = json.dumps(at(5, loss=2.5, learning_rate=1e-4, **{"memory(GiB)": 0.1})).encode()
    odd = [
        b'{"loss": ' + b"9" * 400 + b"}",
        b'{"global_step/max_steps": "\xc2\xb2/4"}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
    ]
    path = tmp_path / "logging.jsonl"
    for form in (*broken_forms(whole, seed=6), *odd):
        path.write_bytes(whole + b"\n" + form.replace(b"\n", b" ") + b"\n" + whole + b"\n")
        try:
            steps = read_log(path)
        except RunError as error:
            assert str(path) in str(error)  # noqa: PT017 - many forms, one test
        else:
            assert steps[5]["loss"] == 2.5


def test_no_log_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "l"
    with pytest.raises(RunError) as caught:
        read_log(path)
    assert str(caught.value) == f"log {path} has 1 problem\n  {path}: got no such file, need the log of a training"


def test_curves_are_pictures(tmp_path: Path) -> None:
    log = write_log(
        tmp_path / "l",
        [at(step, loss=3 / step, learning_rate=1e-4) for step in range(1, 6)] + [at(5, eval_loss=1.0)],
    )
    folder = tmp_path / "new/curves"
    pictures = plot_curves(read_log(log), folder=folder)
    assert pictures == [folder / "loss.png", folder / "learning_rate.png"]
    assert sorted(folder.iterdir()) == sorted(pictures)
    assert all(picture.read_bytes().startswith(PNG) for picture in pictures)


def test_the_curves_show_the_numbers_of_the_log(tmp_path: Path) -> None:
    """A val point that moves must move the picture, and the train line stays blue: read from the pixels."""
    from PIL import Image

    def blue_and_orange(**val: float) -> tuple[bool, bool]:
        log = write_log(tmp_path / "l", [at(1, loss=3.0), at(2, loss=2.0), at(2, **val)])
        with Image.open(plot_curves(read_log(log), folder=tmp_path)[0]) as picture:
            colors = {color for _, color in picture.convert("RGB").getcolors(maxcolors=1 << 24) or []}
        return (0x25, 0x63, 0xEB) in colors, (0xD9, 0x77, 0x06) in colors

    assert blue_and_orange(eval_loss=1.0) == (True, True)
    assert blue_and_orange(grad_norm=1.0) == (True, False)


def test_a_curve_without_points_is_not_drawn(tmp_path: Path) -> None:
    assert plot_curves(read_log(write_log(tmp_path / "l", [at(1, grad_norm=3.0)])), folder=tmp_path) == []
    only_val = write_log(tmp_path / "l", [at(1, eval_loss=3.0)])
    assert [path.name for path in plot_curves(read_log(only_val), folder=tmp_path)] == ["loss.png"]


def test_the_page_shows_what_it_was_given(tmp_path: Path) -> None:
    said = {"base": ["blue", "2 s"], "tuned": ["red", "2 s"]}
    metrics = {
        name: compute_metrics(answers, expected=["red", "2 s"], categories=["colour", "time"])
        for name, answers in said.items()
    }
    path = write_report(
        tmp_path / "new/report.html",
        title="my_run",
        headline="it got better",
        summary={"Steps": 40},
        details={"torch": "2.13.0"},
        warnings=["Training: it fell apart."],
        metrics=metrics,
        findings=["won more than chance"],
        charts=[Chart("Loss", {"train": [(1, 3.0), (40, 1.5)], "val": [(40, 2.0)]})],
        cards=cards(("base", "blue"), ("tuned", "red")),
    )
    page = Page(path)
    text = " ".join(page.text.split())
    heads = "RowsExact matchToken F1ROUGE-LNo answerCut"
    assert "my_run Training: it fell apart. it got better Steps40 what it was made of torch2.13.0 Results" in text
    assert f"Results {heads} base250.0 %50.0 %50.0 %0– tuned2100.0 %" in text
    assert "won more than chance" in text
    assert "Exact match by category Rowsbasetuned colour10.0 %100.0 % time1100.0 %100.0 %" in text
    assert "By kind of answer Rowsbasetuned second: within 0 s1100.0 %100.0 %" in text
    assert [float(attrs["width"] or "") for tag, attrs in page.tags if tag == "rect"] == [0, 100, 100, 100]  # the bars
    charts = [attrs for tag, attrs in page.tags if tag == "svg" and "data-chart" in attrs]
    assert [attrs["aria-label"] for attrs in charts] == [
        "Loss: train from 3 at step 1 to 1.5 at step 40; val from 2 at step 40 to 2 at step 40"
    ]
    assert json.loads(charts[0]["data-chart"] or "")["lines"] == [
        ["train", [[1, 3.0], [40, 1.5]]],
        ["val", [[40, 2.0]]],
    ]
    assert page.cards() == cards(("base", "blue"), ("tuned", "red"))
    assert list(path.parent.iterdir()) == [path]  # nothing is left beside it


def test_cards_say_what_was_read_and_why_it_scores(tmp_path: Path) -> None:
    found = cards(("base", "no idea"), ("tuned", "from 4 to 7"), expected="from 3 to 7", query="When?")
    (row,) = found["rows"]
    assert (row["kind"], row["clips"], row["expected"]) == ("interval", [0], "from 3 to 7")
    assert [(answer["score"], answer["right"], answer["why"]) for answer in row["answers"]] == [
        (0.0, False, "not readable as a time: wrong"),
        (0.8, False, "read as 4 to 7 s, overlap 0.80"),
    ]
    assert found["clips"] == [
        {"name": "a.mp4", "seconds": [0, 7], "frames": ["UklGRm9uZQ==", "UklGRnR3bw=="], "reason": ""}
    ]
    assert cards(("tuned", "A red one."))["rows"][0]["answers"][0]["score"] == pytest.approx(2 / 3, abs=1e-4)


def test_text_cannot_act(tmp_path: Path) -> None:
    page = Page(
        write_report(
            tmp_path / "r.html",
            title=ATTACK,
            headline=ATTACK,
            summary={ATTACK: ATTACK},
            details={ATTACK: ATTACK},
            warnings=[ATTACK],
            metrics={ATTACK: {"num_rows": ATTACK, "exact_match": 0.5, "categories": {ATTACK: {"num_rows": ATTACK}}}},
            findings=[ATTACK],
            charts=[Chart(ATTACK, {ATTACK: [(1, 2.0)]})],
            cards=cards((ATTACK, ATTACK), expected=ATTACK, query=ATTACK, clip=ATTACK.replace("/", "")),
        )
    )
    allowed = "html head meta title style body main header h1 button dl div dt dd details summary section h2 table thead tbody"
    allowed += " tr th td h3 p figure figcaption span output svg line text polyline circle noscript form label input"
    allowed += " select option"
    assert {tag for tag, _ in page.tags} == {*allowed.split(), "script"}
    assert [attrs for tag, attrs in page.tags if tag == "script"] == [{"type": "application/json", "id": "cards"}, {}]
    assert not {key for _, attrs in page.tags for key in attrs if key.startswith("on")}
    # title and heading, warning, headline, summary 2, details 2, metrics 2, finding, categories 3, chart: title, key, column
    assert page.text.count("<script>alert('1')</script> & \"quoted\"") == 17
    assert page.cards()["rows"][0]["query"] == ATTACK


def test_nothing_is_loaded_from_outside(tmp_path: Path) -> None:
    page = Page(
        write_report(
            tmp_path / "r.html", title="t", summary={}, metrics={}, cards=cards(("base", "x"), clip="http://x/a.mp4")
        )
    )
    for _, attrs in page.tags:
        assert not {"href", "src", "srcset", "action", "onload", "style"} & set(attrs)
    policies = [attrs["content"] for _, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy"]
    style, script = (
        base64.b64encode(hashlib.sha256("".join(re.findall(rule, page.source, re.DOTALL)).encode()).digest()).decode()
        for rule in ("<style>(.*?)</style>", "<script>(.*?)</script>")
    )
    assert policies == [
        f"default-src 'none'; img-src data:; style-src 'sha256-{style}'; script-src 'sha256-{script}'; "
        "base-uri 'none'; form-action 'none'"
    ]
    assert "url(" not in page.source
    assert "@import" not in page.source


@pytest.mark.parametrize("is_right", [True, False])
def test_a_mark_is_the_verdict_that_came_with_the_answer(is_right: bool) -> None:
    """The page has no rule of its own, or marks and metrics could disagree."""
    row = Row("?", "red", (), (), source=Path("val.jsonl"), line=1)
    found = build_cards([row], {"tuned": [{"prediction": "red", "is_exact_match": is_right}]}, frames={})
    assert found["rows"][0]["answers"][0]["right"] is is_right


def test_answers_are_shown_as_the_evaluation_stored_them(tmp_path: Path) -> None:
    rows = [{"query": f"Which colour is thing {number}?", "response": "red"} for number in range(2)]
    loaded = load_recipe(make_project(tmp_path, rows=rows, val_rows=rows))
    claim_run_folder(loaded)
    job = open_job(loaded)
    evaluation = Evaluation(job.run.evaluation("base"), {})
    for folder in (job.run.data, job.run.train, evaluation.folder):
        folder.mkdir(parents=True)
    for path in (job.run.train_rows, job.run.val_rows):
        write_jsonl(path, rows)
    write_log(job.run.train / "logging.jsonl", [at(1, loss=1.0)])
    hashes = {f"{which}_sha256": hash_file(job.run.data / f"{which}.jsonl") for which in ("train", "val")}
    manifest = {**MANIFEST, "rows": {**MANIFEST["rows"], **hashes}}
    job.run.manifest_file.write_text(json.dumps(manifest), encoding="utf-8")
    lines = [
        {"response": "red", "prediction": "a\u2028b\x85c", "is_exact_match": False},  # two ends of line, for str alone
        {"response": "red", "prediction": "red", "is_exact_match": True},
    ]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (evaluation.folder / "predictions.jsonl").write_text(text, encoding="utf-8")
    assert evaluation.read_predictions() == lines
    page = Page(write_run_report(job, evaluations={"base": evaluation}).path)
    assert [row["answers"][0]["text"] for row in page.cards()["rows"]] == ["a\u2028b\x85c", "red"]
    values = json.loads((job.run.path / "report.json").read_text())
    assert values["schema"] == 1
    assert values["curves"] == {"Loss": {"train": [[1, 1.0]], "val": []}}
    # every training answer is "red"
    assert values["metrics"]["most frequent answer"]["exact_match"] == 1.0

    # made again from what is stored, and while nothing is evaluated yet
    (evaluation.folder / "metrics.json").write_text(
        json.dumps({"settings": {}, "metrics": {"num_rows": 2, "exact_match": 0.5}})
    )
    assert Page(rewrite_report(loaded)).cards() == page.cards()
    shutil.rmtree(evaluation.folder)
    assert "Loss" in Page(rewrite_report(loaded)).text


def test_a_run_that_has_logged_nothing_has_no_page(tmp_path: Path) -> None:
    loaded = load_recipe(make_project(tmp_path, rows=[{"query": "?", "response": "red"}]))
    with pytest.raises(RunError, match=r"train/logging.jsonl: got no such file"):
        rewrite_report(loaded)
    assert not loaded.recipe.run_dir.exists()


def test_half_a_surrogate_pair_does_not_break_the_page(tmp_path: Path) -> None:
    path = tmp_path / "r.html"
    page = Page(write_report(path, title="t", summary={}, metrics={}, cards=cards(("tuned", "half \ud800"))))
    assert page.cards()["rows"][0]["answers"][0]["text"] == "half ?"


def test_pictures_stay_within_their_budget(tmp_path: Path) -> None:
    paths = [make_clip(tmp_path / f"{index}.mp4", num_frames=60, fps=4) for index in range(3)]
    gone = tmp_path / "gone.mp4"
    decode = open_job(
        load_recipe(make_project(tmp_path, rows=[{"query": "?", "response": "red"}]))
    ).preprocessing.decode
    full = collect_frames([*paths, paths[0], gone], decode=decode)
    assert list(full) == [*paths, gone]  # each clip once
    assert [len(clip.pictures) for clip in full.values()] == [12, 12, 12, 0]
    assert full[paths[0]].seconds == [0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14]
    assert all(picture.startswith(b"RIFF") for picture in full[paths[0]].pictures)
    assert "no such file" in full[gone].reason
    size = sum(len(picture) for clip in full.values() for picture in clip.pictures)
    less = collect_frames(paths, decode=decode, max_bytes=size // 3)
    assert 0 < sum(len(picture) for clip in less.values() for picture in clip.pictures) <= size // 3
    assert all(0 < len(clip.pictures) < 12 for clip in less.values())
    none = collect_frames(paths, decode=decode, max_bytes=10)
    assert {(len(clip.pictures), clip.reason) for clip in none.values()} == {
        (0, "the page would be too large with pictures of more clips")
    }


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
    with pytest.raises(AssertionError, match="a chart without points"):
        write_report(path, title="new", summary={}, metrics={}, charts=[Chart("Loss", {"train": []})])
    assert "old" in Page(path).text
    assert list(tmp_path.iterdir()) == [path]
