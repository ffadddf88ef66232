"""Val rows as the page's script shows them: rows + answers of each model -> values of one JSON document.

The page's script only shows, filters and sorts: what is right, what was read from an answer and why it scores what it does is
decided here and in `evaluate`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from cvft.data.rows import Row, category_of
from cvft.evaluate.metrics import token_f1

if TYPE_CHECKING:
    from cvft.report.frames import ClipFrames

_UNSAFE = {ord(char): f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"}
"""Characters that could end a script or a line of it, escaped in JSON."""


def build_cards(
    rows: Sequence[Row], predictions: Mapping[str, Sequence[Mapping[str, Any]]], *, frames: Mapping[Any, ClipFrames]
) -> dict[str, Any]:
    """Builds what the page shows of each row.

    Args:
        rows: The rows, in order.
        predictions: Who answered -> lines as an evaluation keeps them, for the same rows.
        frames: Clip -> its pictures.

    Returns:
        `models`, `clips` (each once) and `rows`; all of it JSON values.
    """
    numbers = {path: number for number, path in enumerate(frames)}
    cards = []
    for index, row in enumerate(rows):
        answers = [_answer(lines[index], expected=row.response) for lines in predictions.values()]
        kinds = [lines[index].get("kind", "text") for lines in predictions.values()]
        cards.append(
            {
                "line": row.line,
                "clips": [numbers[clip] for clip in row.videos],
                "query": row.query,
                "history": [list(turn) for turn in row.history],
                "system": row.system or "",
                "expected": row.response,
                "category": category_of(row) or "",
                "kind": kinds[0] if kinds else "text",
                "answers": answers,
            }
        )
    return {
        "models": list(predictions),
        "clips": [
            {
                "name": clip.name,
                "seconds": list(clip.seconds),
                "frames": [base64.b64encode(picture).decode("ascii") for picture in clip.pictures],
                "reason": clip.reason,
            }
            for clip in frames.values()
        ],
        "rows": cards,
    }


def to_script_data(values: object) -> Markup:
    """Writes values as JSON that no HTML parser takes for an end of its element."""
    text = json.dumps(values, ensure_ascii=False, separators=(",", ":")).translate(_UNSAFE)
    return Markup(text)


def score_of(line: Mapping[str, Any], *, expected: str) -> float:
    """Returns how good an answer is, from 0 to 1, for sorting: by the metric of its kind, else by its words."""
    for key in ("accuracy", "tiou", "within_1_s"):
        if key in line:
            return float(line[key])
    return token_f1(str(line["prediction"]), expected=expected)


def explain(line: Mapping[str, Any]) -> str:
    """Says what was read from an answer, and what follows from it; nothing for free text."""
    if line.get("kind", "text") == "text":
        return ""
    if line.get("extracted") is None:
        return f"not readable as {_NAMES[line['kind']]}: wrong"
    said = f"read as {line['extracted']}"
    if "tiou" in line:
        said += f", overlap {line['tiou']:.2f}"
    elif line.get("error_s") is not None:
        said += f", {line['error_s']:g} s off"
    return said


_NAMES = {
    "choice": "one option",
    "yes_no": "yes or no",
    "interval": "a time",
    "seconds": "a time",
    "number": "one number",
}


def _answer(line: Mapping[str, Any], *, expected: str) -> dict[str, Any]:
    return {
        "text": line["prediction"],
        "right": line["is_exact_match"],
        "score": round(score_of(line, expected=expected), 4),
        "why": explain(line),
        "cut": bool(line.get("is_cut")),
    }
