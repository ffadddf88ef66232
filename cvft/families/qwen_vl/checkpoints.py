"""The checkpoint that cvft ships. No torch."""

from __future__ import annotations

from cvft.weights.checkpoints import Checkpoint

TINY = Checkpoint(
    "tiny-qwen3-vl", "tests and demos, on a laptop; in the package", "chat", 6_800_000, "Apache-2.0, as cvft"
)
