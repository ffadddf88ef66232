"""Versions of the decoders: what is known of a clip holds for the version that decoded it."""

from __future__ import annotations

import importlib.util
from importlib.metadata import version

from cvft.errors import Problem

_PACKAGES = {"pyav": "av", "decord": "decord"}


def decoder_version(decoder: str) -> str:
    """Returns the version of the package that decodes.

    Args:
        decoder: `pyav` or `decord`.

    Raises:
        PackageNotFoundError: when it is not installed.
    """
    return version(_PACKAGES[decoder])


def find_missing_decoder(decoder: str) -> Problem | None:
    """Returns a problem when a decoder needs a package that is not installed; looks for it, and imports nothing.

    Args:
        decoder: `pyav` or `decord`.
    """
    package = _PACKAGES[decoder]
    if importlib.util.find_spec(package) is not None:
        return None
    return Problem(f"decoder `{decoder}`", "no such package", f"the {package} package", f"pip install {package}")
