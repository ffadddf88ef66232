"""A table of texts, shown three ways: in a terminal, in Markdown, in HTML.

What the cells say is decided by whoever shows it; here stands how they are set, and that no text can break out of its cell.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

NO_NUMBER = "–"
"""Shown where a number is not known."""

_MARKDOWN_SIGNS = re.compile(r"[\\`*~\[\]<>|]")


@dataclass(frozen=True)
class Cell:
    """One cell.

    Args:
        text: What it says.
        share: From 0 to 1: in HTML, a bar of this length stands before the text.
    """

    text: str
    share: float | None = None


@dataclass(frozen=True)
class Table:
    """Texts in rows and columns; the first column holds the labels of the rows.

    Args:
        head: The heading of each column.
        rows: The rows, each as long as the head.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    def __post_init__(self) -> None:
        assert all(len(row) == len(self.head) for row in self.rows), "one cell per column"


def percent(value: object, *, unit: str = " %") -> str:
    """Returns a number from 0 to 1 in per cent, with one decimal.

    Example:
        >>> percent(0.5)
        '50.0 %'
        >>> percent(None)
        '–'
    """
    return f"{100 * value:.1f}{unit}" if isinstance(value, int | float) else NO_NUMBER


def to_text(table: Table, *, min_widths: Sequence[int]) -> str:
    """Sets a table for a terminal: labels to the left, everything else to the right.

    Args:
        table: The table.
        min_widths: The least width of each column, the space before it included; longer texts widen their column.

    Returns:
        One line for the head and one per row, without an end of line after the last.
    """
    lines = [[_one_line(text) for text in line] for line in _texts(table)]
    widths = []
    for column, min_width in enumerate(min_widths):
        gap = 2 if column else 0
        widths.append(max(min_width, *(gap + _display_width(line[column]) for line in lines)))
    return "\n".join(
        "".join(
            " " * (width - _display_width(text)) + text if column else text + " " * (width - _display_width(text))
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def to_markdown(table: Table) -> str:
    """Sets a table in GitHub's Markdown, without an end of line after the last row."""
    head, *rows = (
        "| " + " | ".join(_MARKDOWN_SIGNS.sub(r"\\\g<0>", _one_line(text)) for text in line) + " |"
        for line in _texts(table)
    )
    return "\n".join([head, "|---" * len(table.head) + "|", *rows])


def to_html(table: Table) -> Markup:
    """Sets a table in HTML, in a box that scrolls where the page is too narrow for it."""
    head = Markup("").join(_html_heading(text) for text in table.head)
    rows = Markup("").join(
        Markup('<tr><th scope="row">{}</th>{}</tr>\n').format(
            row[0].text, Markup("").join(_html_cell(cell) for cell in row[1:])
        )
        for row in table.rows
    )
    # it can be reached by keyboard, or nobody could scroll it without a pointer
    return Markup(
        '<div class="wide" tabindex="0" role="group" aria-label="table"><table><thead><tr>{}</tr></thead><tbody>\n{}</tbody>'
        "</table></div>"
    ).format(head, rows)


def _html_heading(text: str) -> Markup:
    return Markup('<th scope="col">{}</th>').format(text) if text else Markup("<td></td>")


def _html_cell(cell: Cell) -> Markup:
    if cell.share is None:
        return Markup("<td>{}</td>").format(cell.text)
    # a drawing and not a styled element: the page's policy allows its one style sheet and no style beside it
    width = round(100 * min(max(cell.share, 0.0), 1.0), 1)
    bar = Markup(
        '<svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
        '<rect width="{}" height="8"></rect></svg>'
    ).format(width)
    return Markup('<td>{}<span class="percent">{}</span></td>').format(bar, cell.text)


def _texts(table: Table) -> list[Sequence[str]]:
    return [table.head, *([cell.text for cell in row] for row in table.rows)]


def _one_line(text: str) -> str:
    """Text without ends of lines and without characters that would steer a terminal."""
    return "".join(char if char.isprintable() else " " for char in text)


def _display_width(text: str) -> int:
    """Columns that a text takes in a terminal: two for each wide character of East Asia, none for a combining mark."""
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )
