"""Versions of the decoders: what is known of a clip holds for the version that decoded it."""

from __future__ import annotations

from importlib.metadata import version

_PACKAGES = {"pyav": "av", "decord": "decord"}


def decoder_version(decoder: str) -> str:
    """Returns the version of the package that decodes.

    Args:
        decoder: `pyav` or `decord`.

    Raises:
        PackageNotFoundError: when it is not installed.
    """
    return version(_PACKAGES[decoder])
