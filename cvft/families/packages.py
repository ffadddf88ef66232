"""Packages that a way to hold weights needs beyond torch; looked for, never imported."""

from __future__ import annotations

import importlib.util

from cvft.errors import Problem, quote


def find_missing_package(quantize: str) -> Problem | None:
    """Returns a problem when a way to quantize needs a package that is not installed."""
    if quantize == "none" or importlib.util.find_spec("bitsandbytes") is not None:
        return None
    return Problem("model.quantize", quote(quantize), "the package bitsandbytes", "pip install 'cvft[quantized]'")
