"""What is wrong with a recipe, as it is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from cvft.errors import RecipeError
from cvft.recipe import load_recipe

BASE = "model: {path: tiny}\ndata: {train: rows.jsonl}\n"
SECTIONS = "`model`, `data`, `video`, `lora`, `optim`, `train`, `parallel`, `export`, `eval` or `output`"
EVAL = "`batch_rows`, `max_new_tokens`, `compare_base`, `compare_blind`, `num_rows` or `probes`"


def told(text: str | bytes, *overrides: str) -> list[str]:
    """The lines of the error below its headline, without their two spaces; the headline's count is checked."""
    Path("mine.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    return told_of("mine.yaml", *overrides)


def told_of(path: str, *overrides: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides=overrides)
    head, *lines = str(caught.value).splitlines()
    count = sum(not line.startswith("    hint: ") for line in lines)
    assert head == f"recipe {path} has {count} problem{'s' if count > 1 else ''}"
    return [line[2:] for line in lines]
