"""What ships with the package: checkpoints, by the names that recipes write for them, recipes, and the demo's dataset."""

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

DEMO_RECIPE = Path("recipes", "tiny_cpu.yaml")
"""Where the demo's recipe lies in the folder that `find_examples` returns."""

DEMO_DATASET = Path("datasets", "tiny_shapes")
"""Where its rows and clips do."""

_PACKAGE = Path(__file__).parent


def find_examples(package: Path = _PACKAGE) -> Path | None:
    """Finds the folder that holds `recipes` and `datasets/tiny_shapes`.

    Args:
        package: The folder of this package.

    Returns:
        The folder `examples` of an installed package, where a wheel puts them, or the checkout around it; None in a copy of the
        package that has neither.
    """
    for folder in (package / "examples", package.parent):
        if (folder / DEMO_RECIPE).is_file() and (folder / DEMO_DATASET).is_dir():
            return folder
    return None
