"""The table of formats, and how the format of a file is found.

`auto` looks at the first `NUM_SAMPLED` objects of a file, or at all where there are fewer. Objects that fit no format are left
out of account: whoever reads them will name them. If any has a `query`, the file is native. Else it is of the one format that
all others fit; several such formats, or none, are an error that names them. With nothing to go by, a file is native too.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cvft.data.formats import benchmarks, conversations, pairs
from cvft.data.formats.turns import Columns
from cvft.errors import DataError, Problem, ValueProblem, quote
from cvft.row_formats import FormatName

NUM_SAMPLED = 100
"""Objects that `auto` looks at: some data sets begin with rows of one kind."""


@dataclass(frozen=True)
class Format:
    """A way in which rows are written.

    Args:
        name: Its name in `data.format`.
        detects: Says whether an object may be written so.
        adapt: Makes native columns of an object, those of one row or of more.
    """

    name: str
    detects: Callable[[Mapping[str, Any]], bool]
    adapt: Callable[[Mapping[str, Any]], list[Columns]]


def formats_at(root: Path, *, source: Path) -> tuple[Format, ...]:
    """Returns the formats that name clips from a folder, for a file of rows."""
    endings = pairs.ClipEndings(root)
    return (
        Format("messages", conversations.is_messages, conversations.adapt_messages),
        Format("sharegpt", conversations.is_sharegpt, conversations.adapt_sharegpt),
        Format("alpaca", pairs.is_alpaca, pairs.adapt_alpaca),
        Format("llava", conversations.is_llava, conversations.adapt_llava),
        Format(
            "video_chatgpt",
            pairs.is_video_chatgpt,
            lambda columns: pairs.adapt_video_chatgpt(columns, endings),
        ),
        Format("next_qa", _never, benchmarks.NextQa(source, endings)),
        Format("activitynet_qa", _never, benchmarks.ActivityNetQa(source, endings)),
        Format("charades_sta", _never, lambda columns: benchmarks.adapt_charades_sta(columns, endings)),
        Format("msrvtt_qa", _never, lambda columns: benchmarks.adapt_msrvtt_qa(columns, endings)),
    )


def _never(columns: Mapping[str, Any]) -> bool:
    """Formats of one dataset are said and not found."""
    del columns
    return False


NATIVE = Format("native", lambda columns: "query" in columns, lambda columns: [dict(columns)])
TABLE = Format("columns of a table", lambda columns: True, pairs.adapt_table)


def adapt_objects(
    objects: Iterable[tuple[int, Any]], *, source: Path, root: Path, name: FormatName, is_table: bool
) -> tuple[str, Iterable[tuple[int, Any]]]:
    """Makes native columns of the objects of a file.

    Args:
        objects: The objects with their numbers.
        source: The file, for messages.
        root: Folder that relative names of clips start from.
        name: What `data.format` says.
        is_table: Whether they are rows of a table, whose columns may have other names.

    Returns:
        The format's name, and native columns with the number of the object that they come from, to be gone through once; in
        place of the columns stands what is wrong with an object, where something is, and whatever is no object.

    Raises:
        DataError: The format is to be found, and several may be meant.
    """
    known = formats_at(root, source=source)
    chosen = next((format for format in known if format.name == name), None)
    if chosen is None:
        left = iter(objects)
        sample = list(itertools.islice(left, NUM_SAMPLED))
        objects = itertools.chain(sample, left)
        chosen = _find(sample, known, source=source) if name != "native" else NATIVE
    if chosen is NATIVE and is_table:
        chosen = TABLE
    return chosen.name, objects if chosen is NATIVE else _adapt(objects, chosen)


def _adapt(objects: Iterable[tuple[int, Any]], format: Format) -> Iterator[tuple[int, Any]]:
    for number, columns in objects:
        if not isinstance(columns, dict):
            yield number, columns
            continue
        try:
            rows = format.adapt(columns)
        except ValueProblem as problem:
            yield number, problem
            continue
        for row in rows:
            yield number, row


def _find(objects: Sequence[tuple[int, Any]], known: Sequence[Format], *, source: Path) -> Format:
    """Returns the one format of the objects, by the rule at the head of this module."""
    sample = [(number, columns) for number, columns in objects if isinstance(columns, dict)]
    if any(NATIVE.detects(columns) for _, columns in sample):
        return NATIVE
    fits = [(number, [format for format in known if format.detects(columns)]) for number, columns in sample]
    fits = [(number, formats) for number, formats in fits if formats]
    if not fits:
        return NATIVE
    candidates = [format for format in known if all(format in formats for _, formats in fits)]
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        names = " and ".join(quote(format.name) for format in candidates)
        got = f"rows that may be {names}"
        hint = f"say which it is: data.format={candidates[0].name} or data.format={candidates[1].name}"
    else:
        first = {format.name: number for number, formats in reversed(fits) for format in formats[:1]}
        names = " and ".join(
            f"{quote(name)} (row {number})" for name, number in sorted(first.items(), key=lambda i: i[1])
        )
        got, hint = f"rows of several formats, {names}", "write a file for each, and `cvft convert` them"
    raise DataError(f"data {source}", [Problem(str(source), got, "rows of one format", hint)])
