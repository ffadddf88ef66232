"""How README and docs look as rendered Markdown in a real browser: tables fit, pictures are there, nothing stays a mark."""

import re
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from tests.browser import Browser, browsing, needs_driver
from tests.docs_pages import PAGES, README, README_ZH, name_of

WIDTH = 1200
"""Pixels of a window; GitHub gives a page at most 1012 of them."""

STYLE = """
    body { max-width: 1012px; margin: 0 auto; font: 16px/1.5 system-ui, "Noto Sans", "Noto Sans CJK SC", sans-serif; }
    img { max-width: 100%; } pre, code { font: 85% ui-monospace, "Liberation Mono", monospace; } pre { overflow: auto; }
    table { display: block; width: max-content; max-width: 100%; overflow: auto; border-collapse: collapse; }
    th, td { padding: 6px 13px; border: 1px solid #d1d9e0; } code { white-space: break-spaces; } pre code { white-space: pre; }"""
"""What decides about widths in GitHub's own style. Source: github-markdown-css."""

TOO_WIDE = """return [...document.querySelectorAll("table")].filter((each) => each.scrollWidth > each.clientWidth + 1)
    .map((each) => each.textContent.slice(0, 200))"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Browser:
    with browsing(tmp_path_factory.mktemp("browser"), width=WIDTH) as opened:
        yield opened


def render(page: Path, folder: Path) -> str:
    """Writes a page as HTML; returns its address."""
    body = MarkdownIt("commonmark", {"html": True}).enable("table").render(page.read_text(encoding="utf-8"))
    html = folder / f"{page.stem}.html"
    head = f'<meta charset="utf-8"><base href="{page.parent.as_uri()}/"><style>{STYLE}</style>'
    html.write_text(f"<!doctype html>{head}<body>{body}", encoding="utf-8")
    return html.as_uri()


@needs_driver
@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_page_fits_into_a_window(page, browser, tmp_path):
    browser.open(render(page, tmp_path))
    tables = browser.run('return document.querySelectorAll("table").length')
    assert tables == sum(line.startswith("|---") for line in page.read_text(encoding="utf-8").splitlines())
    assert browser.run(TOO_WIDE) == []
    assert browser.run("return document.documentElement.scrollWidth - innerWidth") <= 0
    missing = browser.run(
        'return [...document.querySelectorAll("img")].filter((each) => !each.naturalWidth).map((each) => each.src)'
    )
    assert missing == []
    assert not [text for text in browser.texts("p, li, td") if re.search(r"\](\(|\[)|\*\*\w", text)]


@needs_driver
def test_both_readmes_show_the_commands_and_the_report_first(browser, tmp_path):
    for page in (README, README_ZH):
        browser.open(render(page, tmp_path))
        assert "make demo" in browser.text("pre")
        order = browser.run(
            'return [...document.querySelectorAll("h1, img, pre, h2")].slice(0, 4).map((each) => each.tagName)'
        )
        assert order == ["H1", "PRE", "IMG", "H2"]
