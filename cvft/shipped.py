"""The checkpoints that ship in the package, by the names that recipes write for them. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Shipped:
    """A checkpoint in the package.

    Args:
        folder: Its folder in `weights/`: published file names, a few MB, loads offline.
        video: What a recipe's `video` section says for it, where its family's own settings are for larger models.
    """

    folder: Path
    video: Mapping[str, float] = field(default_factory=dict)


_WEIGHTS = Path(__file__).parent / "weights"

SHIPPED = {
    "tiny": Shipped(_WEIGHTS / "tiny"),
    "tiny-qwen3-vl": Shipped(
        _WEIGHTS / "tiny_qwen3_vl", video={"fps": 4.0, "min_frame_tokens": 4, "max_frame_tokens": 4}
    ),
}
"""What `model.path` says -> the checkpoint."""
