"""The really trained tiny CogVLM2-Video that ships with cvft. Importing this room does not import torch."""

from __future__ import annotations

from pathlib import Path


def tiny_checkpoint_path() -> Path:
    """Returns the folder of the shipped checkpoint: published file names, 6 MB, loads offline."""
    return Path(__file__).parent / "checkpoint"
