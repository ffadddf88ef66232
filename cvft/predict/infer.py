"""Answers outside a run: one question, or a file of rows, with an adapter or a merged folder and nothing else given.

Everything that decides how clips and text reach the model comes from the contract beside the weights.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from cvft.data.rows import Row, read_rows
from cvft.files import write_whole
from cvft.jsonl import to_jsonl

BATCH_ROWS = 4
"""Rows answered at a time where the caller does not say."""

MAX_NEW_TOKENS = 512
"""Longest answer in tokens where the caller does not say."""


def infer_one(
    model: Path,
    *,
    video: Path | None,
    query: str,
    history: Sequence[tuple[str, str]] = (),
    max_new_tokens: int = MAX_NEW_TOKENS,
    quantize: str | None = None,
) -> str:
    """Answers one question.

    Args:
        model: Adapter or merged folder.
        video: The clip, or None to ask without one.
        query: The question.
        history: Earlier (question, answer) turns.
        max_new_tokens: Longest answer in tokens.
        quantize: `none`, `nf4` or `int8`; without it an adapter is asked on its base as it was trained, a merged model as it is.

    Returns:
        The answer.

    Raises:
        CvftError: when the folder or the clip cannot be used.
    """
    from cvft.predict.open import open_trained

    predictor = open_trained(model, quantize=quantize)
    source = Path("command line")
    row = Row(query, "", tuple(history), None if video is None else video.resolve(), source=source, line=1)
    (answer,) = predictor.answer([row], batch_rows=1, max_new_tokens=max_new_tokens)
    predictor.close()
    return answer.text


def infer_file(
    model: Path, *, data: Path, output: Path, max_new_tokens: int = MAX_NEW_TOKENS, quantize: str | None = None
) -> str:
    """Answers every row of a file.

    Args:
        model: Adapter or merged folder.
        data: JSON or JSONL rows; responses are kept and not looked at.
        output: JSONL to write: each row with its `prediction`, and `is_cut` where tokens ran out. It appears whole or not at all.
        max_new_tokens: Longest answer in tokens.
        quantize: `none`, `nf4` or `int8`; without it an adapter is asked on its base as it was trained, a merged model as it is.

    Returns:
        How many rows were answered, for the terminal.

    Raises:
        CvftError: when the folder, a row or a clip cannot be used; then nothing is written.
    """
    from cvft.predict.open import open_trained

    rows = read_rows(data, require_response=False)
    predictor = open_trained(model, quantize=quantize)
    with tqdm(total=len(rows), desc="answering", unit="row", file=sys.stderr, dynamic_ncols=True) as bar:
        answers = predictor.answer(rows, batch_rows=BATCH_ROWS, max_new_tokens=max_new_tokens, on_progress=bar.update)
    predictor.close()
    lines = (
        {**row.to_json(), "prediction": answer.text, "is_cut": answer.is_cut}
        for row, answer in zip(rows, answers, strict=True)
    )
    write_whole(output, to_jsonl(lines))
    return f"{len(rows)} rows answered in {output}"
