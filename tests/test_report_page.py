"""The page in a real browser: what its script shows, filters and sorts, by address; hostile text; a large page."""

from __future__ import annotations

import html
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cvft.data.rows import Row
from cvft.evaluate.metrics import score_rows
from cvft.report import write_report
from cvft.report.cards import build_cards
from cvft.report.frames import ClipFrames
from tests.browser import CHROMIUM, browsing, needs_driver
from tests.project import HANG_S

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium")
ATTACK = "</script><img src=x onerror=document.title='hit'><b>\u2028&amp;"
EXPECTED = ["red", "blue", "from 3 to 7", "green"]
BASE = ["blue", "blue", "no idea", "green"]
TUNED = ["red", "red", "from 3 to 7", "green"]


def open_page(path: Path, *, address: str = "", profile: Path) -> str:
    """Returns the document as the browser has it once its scripts have run."""
    assert CHROMIUM is not None
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
    ]
    command += [
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={profile}",
        "--virtual-time-budget=5000",
    ]
    environment = {**os.environ, "HOME": str(profile)}
    result = subprocess.run(
        [*command, "--dump-dom", f"file://{path}{address}"],
        capture_output=True,
        text=True,
        timeout=HANG_S,
        env=environment,
        check=True,
    )
    return result.stdout


def shown(document: str) -> list[tuple[str, list[str]]]:
    """The cards: question, and the mark of each answer."""
    cards = re.findall(r'<article class="card".*?</article>', document, re.DOTALL)
    return [
        (
            html.unescape(re.findall(r'<h3 class="question">(.*?)</h3>', card, re.DOTALL)[0]),
            re.findall(r'class="mark"[^>]*>(.)<', card),
        )
        for card in cards
    ]


def make_page(
    path: Path, *, queries: list[str] | None = None, num_copies: int = 1, num_clips: int = 2, picture: bytes = b""
) -> Path:
    expected, base, tuned = EXPECTED * num_copies, BASE * num_copies, TUNED * num_copies
    asked = queries or [f"question {index}?" for index in range(len(expected))]
    clips = [Path(f"clips/{index}.mp4") for index in range(num_clips)]
    rows = [
        Row(query, right, (), (clips[index % num_clips],), path, index + 1, extra={"category": f"kind {index % 2}"})
        for index, (query, right) in enumerate(zip(asked, expected, strict=True))
    ]
    predictions: dict[str, list[dict[str, Any]]] = {
        name: [
            {"prediction": text, **score.to_json()}
            for text, score in zip(said, score_rows(said, expected=expected, queries=asked), strict=True)
        ]
        for name, said in (("base", base), ("merged", tuned))
    }
    frames = {clip: ClipFrames(clip.name, list(range(12)), [picture] * 12) for clip in clips}
    return write_report(path, title="t", summary={}, metrics={}, cards=build_cards(rows, predictions, frames=frames))


@needs_browser
def test_rows_are_filtered_and_sorted_by_the_address(tmp_path: Path) -> None:
    page = make_page(tmp_path / "r.html")
    asked = [f"question {index}?" for index in range(4)]
    marks = [["✗", "✓"], ["✓", "✗"], ["✗", "✓"], ["✓", "✓"]]
    everything = list(zip(asked, marks, strict=True))
    for address, rows in {
        "": everything,
        "#show=won": [everything[0], everything[2]],
        "#show=lost": [everything[1]],
        "#show=changed": everything[:3],
        "#show=wrong": [everything[1]],
        "#q=idea": [everything[2]],
        "#category=kind+1": [everything[1], everything[3]],
        "#sort=worst": [everything[index] for index in (1, 0, 2, 3)],
        "#show=lost&q=nothing": [],
        "#show=no-such-word": everything,
    }.items():
        document = open_page(page, address=address, profile=tmp_path / "profile")
        assert shown(document) == rows, address
        said = re.findall(r'<span id="count"[^>]*>([^<]*)<', document)[0]
        assert said == ("4 rows" if len(rows) == 4 else f"{len(rows)} of 4 rows")


@needs_browser
def test_hostile_text_is_shown_and_does_nothing(tmp_path: Path) -> None:
    page = make_page(tmp_path / "r.html", queries=[ATTACK, "b", "c", "d"])
    document = open_page(page, profile=tmp_path / "profile")
    assert shown(document)[0][0] == ATTACK
    assert "<title>t</title>" in document
    assert "<img src=" not in document.replace('<img src="data:image/webp;base64,', "")


@needs_driver
def test_without_a_network_the_page_asks_for_nothing_and_does_not_complain(tmp_path: Path) -> None:
    page = make_page(tmp_path / "r.html", queries=[ATTACK, "b", "c", "d"])
    with browsing(tmp_path / "profile") as browser:
        browser.cut_network()
        browser.open(page.as_uri())
        assert len(browser.texts("article.card")) == 4
        assert browser.asked_for() == []
        assert browser.complaints() == []


@needs_browser
def test_a_large_page(tmp_path: Path) -> None:
    """2,000 rows of 340 clips with 12 pictures of 2 kB: within 15 MB; the first rows are there, the others on demand."""
    page = make_page(tmp_path / "r.html", num_copies=500, num_clips=340, picture=os.urandom(2000))
    assert page.stat().st_size < 15e6
    document = open_page(page, profile=tmp_path / "profile")
    assert "2000 rows" in document
    assert len(shown(document)) == 40
