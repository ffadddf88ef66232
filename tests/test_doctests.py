"""Every example in a docstring runs. Modules are found by their text, so that none without examples has to be imported."""

import doctest
import importlib
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "cvft"
ELSEWHERE = {"cvft.api"}
"""Its example needs a trained model: `test_api.py` runs it."""

MODULES = sorted(
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    for path in PACKAGE.rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)


def test_examples_are_found():
    assert set(MODULES) >= ELSEWHERE | {"cvft.evaluate.metrics.overlap", "cvft.tables"}


@pytest.mark.parametrize("name", [name for name in MODULES if name not in ELSEWHERE])
def test_the_examples_of_a_module_run(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0
