"""The preview: the tokens that are trained at their places, frames at their seconds, findings by row, in a real browser."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import pytest

from cvft.cli.main import main
from cvft.data.doctor.check import CheckUp, DataFile, check_files
from cvft.data.video.loader import DecodeSettings
from cvft.data.video.sample import Sampling
from cvft.families.family import IGNORED_LABEL, Layout
from cvft.plan.check import check_job, open_to_check
from cvft.recipe import load_recipe
from cvft.report.preview import choose_rows, render_with, split_tokens, write_preview
from tests.browser import browsing, needs_driver
from tests.project import files_under, make_project, write_jsonl
from tests.real_clips import real_clip
from tests.test_report_page import ATTACK, needs_browser, open_page

ROWS = [
    {"query": "What is shown?", "response": "a man", "category": "what"},
    {"query": "And now?", "response": "Fahrräder \U0001f6b2", "history": [["What is shown?", "bikes"]]},
    {"query": "Say yes.", "response": "n/a"},
    {"query": ATTACK, "response": ATTACK, "category": ATTACK},
]


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("preview")
    rows = [{**row, "videos": [str(real_clip("bikes.mp4"))]} if number < 2 else row for number, row in enumerate(ROWS)]
    (folder / "bad.mp4").write_bytes(b"no clip")
    bad = {"query": "Bad?", "response": "yes", "videos": ["bad.mp4"]}
    return make_project(folder, rows=[*rows, bad], val_rows=rows[:1])


@pytest.fixture(scope="module")
def page(project) -> Path:
    job = open_to_check(load_recipe(project))
    write_preview(check_job(job), project.parent / "page.html", rendering=render_with(job))
    return project.parent / "page.html"


def cards_of(page: Path) -> dict:
    return json.loads(re.findall(r'<script type="application/json" id="cards">(.*?)</script>', page.read_text())[0])


def test_pieces_are_all_tokens_once_and_the_trained_ones_are_the_labels(project):
    job = open_to_check(load_recipe(project))
    rendering = render_with(job)
    checked = check_job(job)
    rows = [row for row in checked.rows if not row.videos or row.videos[0] in checked.clips]
    assert len(rows) == 5
    for row in rows:
        layout = rendering.lay_out(row, [checked.clips[clip] for clip in row.videos])
        pieces = split_tokens(layout, rendering.decode)
        places = [place for piece in pieces for place in range(piece["first"], piece["last"] + 1)]
        assert places == list(range(len(layout)))
        trained = {place for place, label in enumerate(layout.labels) if label != IGNORED_LABEL}
        (piece,) = [piece for piece in pieces if piece["kind"] == "trained"]
        assert set(range(piece["first"], piece["last"] + 1)) == trained
        assert piece["text"] == f"{row.response}<|end_of_text|>"
        text = "".join(piece["text"] for piece in pieces if piece["kind"] == "prompt")
        assert f"Question: {row.query} Answer:" in text
        assert all(question in text and answer in text for question, answer in row.history)


def test_tokens_of_pictures_are_counted_and_text_between_them_is_written():
    layout = Layout([9, 1, 1, 5, 1, 1, 6, 7, 8], [0, 1, 1, 0, 1, 1, 0, 0, 0], [IGNORED_LABEL] * 8 + [8], 7)
    assert split_tokens(layout, lambda ids: "".join(map(str, ids))) == [
        {"kind": "prompt", "text": "9", "first": 0, "last": 0},
        {"kind": "clip", "text": "[2] 5 [2] 6", "first": 1, "last": 6},
        {"kind": "prompt", "text": "7", "first": 7, "last": 7},
        {"kind": "trained", "text": "8", "first": 8, "last": 8},
    ]


def test_frames_are_those_that_the_model_is_fed_at_their_seconds(project, page):
    cards = cards_of(page)
    checked = check_job(open_to_check(load_recipe(project)))
    info = checked.clips[real_clip("bikes.mp4")]
    clip, bad = cards["clips"]
    assert clip["seconds"] == [round(second, 2) for second in info.timestamps_s]
    assert len(clip["frames"]) == info.num_frames > 8
    assert (bad["frames"], bad["reason"]) == ([], "it does not decode")


def test_findings_stand_at_their_rows(page):
    rows = cards_of(page)["rows"]
    assert [[each["kind"] for each in row["findings"]] for row in rows] == [
        ["clip_on_both_sides"],
        ["clip_on_both_sides"],
        ["blank_text"],
        [],
        ["clip_refused"],
        ["duplicate_row", "clip_on_both_sides"],
    ]
    assert [row["side"] for row in rows] == [""] * 5 + ["held out"]


def shown(document: str) -> list[str]:
    """The places of the cards."""
    return re.findall(r'<article class="card"[^>]*><p class="clip">[^<]*?([a-z]+\.jsonl:\d+)', document)


@needs_browser
def test_rows_are_filtered_and_sorted_by_the_address(page, tmp_path):
    train = [f"train.jsonl:{line}" for line in range(1, 6)]
    everything = [*train, "val.jsonl:1"]
    for address, expected in {
        "": everything,
        "#show=error": ["train.jsonl:5"],
        "#show=clean": ["train.jsonl:4"],
        "#kind=blank_text": ["train.jsonl:3"],
        "#file=val.jsonl": ["val.jsonl:1"],
        "#q=man+shown": ["train.jsonl:1", "val.jsonl:1"],
        "#category=what": ["train.jsonl:1", "val.jsonl:1"],
        "#sort=gravest": ["train.jsonl:5", *(name for name in everything if name[-9:] not in ("jsonl:5", "jsonl:4"))],
        "#q=nothing": [],
    }.items():
        found = shown(open_page(page, address=address, profile=tmp_path / "profile"))
        if address == "#sort=gravest":
            assert found[0] == "train.jsonl:5"
            assert found[-1] == "train.jsonl:4"
            assert sorted(found) == sorted(everything)
        else:
            assert found == expected, address


@needs_driver
def test_without_a_network_the_page_asks_for_nothing_and_does_not_complain(page, tmp_path):
    with browsing(tmp_path / "profile") as browser:
        browser.cut_network()
        browser.open(page.as_uri())
        assert len(browser.texts("article.card")) == 6
        browser.type("#filter-q", "man")
        assert browser.wait("document.querySelectorAll('article.card').length === 2")
        assert browser.asked_for() == []
        assert browser.complaints() == []


@needs_browser
def test_hostile_text_is_shown_and_does_nothing(page, tmp_path):
    document = open_page(page, profile=tmp_path / "profile")
    assert "<title>Preview of train.jsonl</title>" in document
    assert "<img src=" not in document.replace('<img src="data:image/webp;base64,', "")
    marks = [html.unescape(text) for text in re.findall(r"<mark>(.*?)</mark>", document, re.DOTALL)]
    assert f"{ATTACK}<|end_of_text|>" in marks
    assert "://" not in page.read_text()


def test_without_a_recipe_texts_are_shown(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = write_jsonl(tmp_path / "rows.jsonl", [{**ROWS[1], "videos": [str(real_clip("bikes.mp4"))]}, {"query": "?"}])
    assert main(["preview", str(data)]) == 0
    assert capsys.readouterr().out == (
        "preview   preview.html: 1 of 1 rows, 1 clips; found 1 error, 0 warnings, 0 notes\n"
    )
    cards = cards_of(tmp_path / "preview.html")
    assert (cards["has_tokens"], cards["rows"][0]["pieces"], cards["rows"][0]["response"]) == (
        False,
        None,
        ROWS[1]["response"],
    )
    assert "rows.jsonl:2" in (tmp_path / "preview.html").read_text()  # no row, and yet it is told
    assert files_under(tmp_path) == ["preview.html", "rows.jsonl"]


def test_what_the_command_refuses(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = write_jsonl(tmp_path / "rows.jsonl", ROWS[:1])
    before = data.read_bytes()
    assert main(["preview", str(data), "--output", str(data)]) == 2
    assert "which is to be checked" in capsys.readouterr().err
    assert main(["preview", str(data), "--rows", "0"]) == 2
    assert capsys.readouterr().err == "command line has 1 problem\n  --rows: got `0`, need at least 1\n"
    assert data.read_bytes() == before


def check(folder: Path, rows: list[dict]) -> CheckUp:
    return check_files([DataFile(write_jsonl(folder / "rows.jsonl", rows))], how=DecodeSettings(Sampling()))


def test_which_rows_are_chosen(tmp_path):
    odd = {3, 50, 51, 90}
    checked = check(tmp_path, [{"query": f"{i}?", "response": "n/a" if i in odd else f"{i}"} for i in range(100)])
    about = {id(row): [] for row in checked.rows}
    for finding in checked.findings:
        for row in finding.rows:
            about[id(row)].append(finding)
    lines = [row.line - 1 for row in choose_rows(checked.rows, about, most=20)]
    assert lines == sorted(lines)
    assert len(lines) == 20
    assert odd <= set(lines)
    assert max(set(lines) - odd) > 80  # not the head of the file alone
    assert [row.line - 1 for row in choose_rows(checked.rows, about, most=1)] == [3]
    assert choose_rows(checked.rows, about, most=100) == list(checked.rows)
