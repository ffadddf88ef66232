"""The one table: three forms, and that no text breaks out of its cell; the terminal's lines to the letter."""

import re

import pytest

from cvft.evaluate.metrics import compute_metrics
from cvft.report.terminal import metrics_table
from cvft.tables import Cell, Table, percent, to_html, to_markdown, to_text

TABLE = Table(["", "rows", "base"], [[Cell("colour"), Cell("12"), Cell("50.0 %", share=0.5)]])


def test_one_table_in_three_forms() -> None:
    assert to_text(TABLE, min_widths=[10, 6, 9]) == "            rows     base\ncolour        12   50.0 %"
    assert to_markdown(TABLE) == "|  | rows | base |\n|---|---|---|\n| colour | 12 | 50.0 % |"
    assert str(to_html(TABLE)).replace("\n", "") == (
        '<div class="wide" tabindex="0" role="group" aria-label="table"><table>'
        '<thead><tr><td></td><th scope="col">rows</th><th scope="col">base</th></tr></thead>'
        '<tbody><tr><th scope="row">colour</th><td>12</td><td>'
        '<svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
        '<rect width="50.0" height="8"></rect></svg><span class="percent">50.0 %</span></td></tr>'
        "</tbody></table></div>"
    )


def test_rows_are_as_long_as_the_head() -> None:
    with pytest.raises(AssertionError, match="one cell per column"):
        Table(["a", "b"], [[Cell("a")]])


@pytest.mark.parametrize(
    ("text", "terminal", "markdown", "html"),
    [
        ("a|b", "a|b", r"a\|b", "a|b"),
        ("a\nb\u2028c", "a b c", "a b c", "a\nb\u2028c"),
        ("\x1b[31mred", " [31mred", r" \[31mred", "\x1b[31mred"),
        ("<b>&`x`*", "<b>&`x`*", r"\<b\>&\`x\`\*", "&lt;b&gt;&amp;`x`*"),
        ("first_seen", "first_seen", "first_seen", "first_seen"),
    ],
)
def test_text_stays_in_its_cell(text: str, terminal: str, markdown: str, html: str) -> None:
    table = Table([""], [[Cell(text)]])
    assert to_text(table, min_widths=[0]).split("\n")[1] == terminal
    assert to_markdown(table).split("\n")[2] == f"| {markdown} |"
    assert f'<tr><th scope="row">{html}</th></tr>' in to_html(table)


def test_bars_end_where_their_table_does() -> None:
    cells = [Cell("x", share=share) for share in (-1.0, 0.0, 1.0, 7.0)]
    assert re.findall('rect width="([^"]+)"', to_html(Table([""] * 5, [[Cell("a"), *cells]]))) == [
        "0.0",
        "0.0",
        "100.0",
        "100.0",
    ]


def test_percent() -> None:
    assert [percent(value) for value in (0, 0.9999, 1, None, "x")] == ["0.0 %", "100.0 %", "100.0 %", "–", "–"]


def test_the_terminal_shows_exact_match_per_category_and_over_all_rows() -> None:
    expected, categories = ["red", "2 s", "yes"], ["colour", "first_seen", None]
    metrics = {
        "base": compute_metrics(["blue", "2 s", "no"], expected=expected, categories=categories),
        "merged": compute_metrics(["red", "2 s", "yes"], expected=expected, categories=categories),
    }
    assert metrics_table(metrics) == (
        "val exact match        base    merged    rows\n"
        "  colour               0.0%    100.0%       1\n"
        "  first_seen         100.0%    100.0%       1\n"
        "all                   33.3%    100.0%       3"
    )
    assert metrics_table({"adapter": compute_metrics(["red"], expected=["red"])}) == (
        "val exact match     adapter    rows\nall                  100.0%       1"
    )


def test_long_and_wide_labels_widen_their_column() -> None:
    answers = ["a", "b"]
    metrics = {"base": compute_metrics(answers, expected=answers, categories=["颜色", "when does it happen"])}
    assert metrics_table(metrics) == (
        "val exact match            base    rows\n"
        "  when does it happen    100.0%       1\n"
        "  颜色                   100.0%       1\n"
        "all                      100.0%       2"
    )
