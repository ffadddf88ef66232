"""What formats share: turns of a conversation -> native columns of rows, and the columns that a row keeps.

A conversation of which every answer is trained becomes one row for each answer, with the turns before it as its history: those
rows together train on the same answers behind the same words.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from cvft.data.row_columns import text_of
from cvft.errors import ValueProblem, quote

Columns = dict[str, Any]
"""Native columns of a row."""

_OURS = frozenset(("query", "response", "history"))


class Turn(NamedTuple):
    """A question and its answer.

    Args:
        query: The question.
        response: The answer; None where it is still to be given.
        is_trained: Whether the answer is to be learned.
    """

    query: str
    response: str | None
    is_trained: bool = True


def rows_of_turns(turns: Sequence[Turn], rest: Mapping[str, Any]) -> list[Columns]:
    """Returns a row for each answer that is trained, with the turns before it as its history.

    Args:
        turns: The conversation.
        rest: Columns that each of the rows has as well.
    """
    rows = []
    for number, (query, response, is_trained) in enumerate(turns):
        if not is_trained:
            continue
        history = [[earlier.query, earlier.response] for earlier in turns[:number]] if number else []
        row = {"query": query, "history": history}
        if response is not None:
            row["response"] = response
        row.update(rest)
        rows.append(row)
    return rows


def rest_of(columns: Mapping[str, Any], used: Collection[str]) -> Columns:
    """Returns the columns that a row keeps as they are.

    Args:
        columns: The object.
        used: What its format has read.

    Raises:
        ValueProblem: when a native column stands beside those of the format: which of them is meant, nobody knows.
    """
    rest = {name: value for name, value in columns.items() if name not in used}
    if not _OURS.isdisjoint(rest):
        native = next(name for name in ("query", "response", "history") if name in rest)
        others = ", ".join(map(quote, used))
        raise ValueProblem(f"the column {quote(native)} beside those of another format", f"only {others}", "remove one")
    return rest


def read_text(value: Any, name: str, *, may_be_empty: bool = True) -> str:
    """Returns a text of an object.

    Args:
        value: The value.
        name: How messages name it.
        may_be_empty: Whether it may say nothing; an answer to learn may not.

    Raises:
        ValueProblem: when it is no text, or says nothing.
    """
    text = text_of(value)
    if text is None:
        got = "nothing" if value is None else f"{_kind(value)}"
        raise ValueProblem(f"{got} as {name}", "a text")
    if not may_be_empty and not text.strip():
        got = "only white space" if text else "an empty text"
        raise ValueProblem(f"{got} as {name}", "a text that is not empty", "write the answer or remove the row")
    return text


def with_system(rest: Columns, columns: Mapping[str, Any], said: str | None = None) -> Columns:
    """Returns the columns that a row keeps, and the system text of its object where it says something.

    Args:
        rest: The columns.
        columns: The object, which may have a column `system`.
        said: What it says in a turn of its own.

    Raises:
        ValueProblem: when both say something, or the column holds no text.
    """
    value = columns.get("system")
    text = None if value is None else read_text(value, "`system`")
    if said and said.strip():
        if text and text.strip():
            raise ValueProblem("a system text in `system` and in a turn", "one place for it", "remove one of them")
        text = said
    return {**rest, "system": text} if text and text.strip() else rest


def _kind(value: Any) -> str:
    return "a list" if isinstance(value, list) else "an object" if isinstance(value, dict) else quote(value)
