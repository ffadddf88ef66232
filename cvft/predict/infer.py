"""Answers outside a run: one question, or a file of rows, with an adapter or a merged folder and nothing else given.

Everything that decides how clips and text reach the model comes from the contract beside the weights.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from cvft.data.rows import Row, read_rows
from cvft.errors import ContractError, Problem, quote
from cvft.families.contract import read_contract
from cvft.files import write_whole
from cvft.recipe import Recipe, load_recipe
from cvft.weights.folder import weights_fingerprint
from cvft.weights.hub import locate_model

if TYPE_CHECKING:
    from cvft.predict.predictor import Answerer

BATCH_ROWS = 4


def infer_one(
    model: Path,
    *,
    video: Path | None,
    query: str,
    history: Sequence[tuple[str, str]] = (),
    max_new_tokens: int = 512,
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
    answerer = _open(model, quantize=quantize)
    source = Path("command line")
    row = Row(query, "", tuple(history), None if video is None else video.resolve(), source=source, line=1)
    (answer,) = answerer.answer([row], batch_rows=1, max_new_tokens=max_new_tokens)
    answerer.close()
    return answer


def infer_file(model: Path, *, data: Path, output: Path, max_new_tokens: int = 512, quantize: str | None = None) -> str:
    """Answers every row of a file.

    Args:
        model: Adapter or merged folder.
        data: JSON or JSONL rows; responses are kept and not looked at.
        output: JSONL to write: each row with its `prediction`. It appears whole or not at all.
        max_new_tokens: Longest answer in tokens.
        quantize: `none`, `nf4` or `int8`; without it an adapter is asked on its base as it was trained, a merged model as it is.

    Returns:
        How many rows were answered, for the terminal.

    Raises:
        CvftError: when the folder, a row or a clip cannot be used; then nothing is written.
    """
    rows = read_rows(data, require_response=False)
    answerer = _open(model, quantize=quantize)
    with tqdm(total=len(rows), desc="answering", unit="row", file=sys.stderr, dynamic_ncols=True) as bar:
        answers = answerer.answer(rows, batch_rows=BATCH_ROWS, max_new_tokens=max_new_tokens, on_progress=bar.update)
    answerer.close()
    lines = [
        json.dumps({**row.to_json(), "prediction": answer}, ensure_ascii=False)
        for row, answer in zip(rows, answers, strict=True)
    ]
    write_whole(output, "".join(f"{line}\n" for line in lines))
    return f"{len(rows)} rows answered in {output}"


def _open(folder: Path, *, quantize: str | None) -> Answerer:
    import torch

    from cvft.predict.predictor import load_answerer

    contract = read_contract(folder)
    recipe = load_recipe(folder / "recipe.yaml").recipe
    torch.set_num_threads(recipe.parallel.num_threads)
    device = "cuda" if torch.cuda.is_available() and recipe.parallel.device != "cpu" else "cpu"
    is_adapter = (folder / "adapter_config.json").is_file()
    base = _base_of(folder, recipe, expected=contract.base_fingerprint) if is_adapter else folder
    return load_answerer(
        base,
        contract=contract,
        adapter_folder=folder if is_adapter else None,
        dtype=recipe.model.dtype if is_adapter or recipe.export.dtype == "auto" else recipe.export.dtype,
        embeddings_on_cpu=recipe.model.embeddings_on_cpu and device == "cuda",
        quantize=quantize or (recipe.model.quantize if is_adapter else "none"),
        attention=None if recipe.model.attention == "auto" else recipe.model.attention,
        device=device,
        timeout_s=recipe.video.timeout_s,
        memory_gib=recipe.video.memory_gib,
    )


def _base_of(adapter_folder: Path, recipe: Recipe, *, expected: str) -> Path:
    base = locate_model(recipe.model.path, hub=recipe.model.hub, revision=recipe.model.revision).folder
    if weights_fingerprint(base) != expected:
        hint = "merge the adapter where its base lies (cvft export), or put the base back"
        problem = Problem(
            "base model", f"other weights in {quote(base)}", "the base that the adapter was trained on", hint
        )
        raise ContractError(f"adapter {adapter_folder}", [problem])
    return base
