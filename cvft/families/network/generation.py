"""Answers of rows that are all there from the beginning: encoded prompts in, text out, greedily."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from torch import Tensor

from cvft.families.answering import Answer, OnText
from cvft.families.network.answering import Batcher, RunningRows


def generate_answers(
    model: Any,
    batcher: Batcher,
    rows: Sequence[Mapping[str, Tensor]],
    *,
    max_new_tokens: int | Sequence[int],
    clips: Sequence[Hashable] | None = None,
    on_text: OnText | None = None,
) -> list[Answer]:
    """Answers one batch of prompts.

    Args:
        model: The model, or a peft model around it.
        batcher: What encoded the rows.
        rows: Prompts, encoded without a response.
        max_new_tokens: Longest answer in tokens, of all rows or of each; a longer one is cut there.
        clips: What tells the rows' clips apart: rows with equal values share one clip, which is computed once. None for rows
            that share none.
        on_text: See `cvft.families.runtime.Runtime.generate`.

    Returns:
        One answer per row.
    """
    if not rows:
        return []
    running = RunningRows(model, batcher, with_text=on_text is not None)
    tokens = running.join(
        rows,
        max_new_tokens=[max_new_tokens] * len(rows) if isinstance(max_new_tokens, int) else max_new_tokens,
        clips=range(len(rows)) if clips is None else clips,
        drawings=[None] * len(rows),
    )
    numbers = {token.row: number for number, token in enumerate(tokens)}
    answers: dict[int, Answer] = {}
    while tokens:
        for token in tokens:
            number, answer = numbers[token.row], token.answer
            if on_text is not None and not on_text(number, token.piece) and answer is None:
                answer = running.leave(token.row)
            if answer is not None:
                answers[number] = answer
        tokens = running.step()
    return [answers[number] for number in range(len(rows))]
