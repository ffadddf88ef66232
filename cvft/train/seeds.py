"""Where every random number of a training comes from: the recipe's seed and the place where it is drawn, nothing else."""

from __future__ import annotations

import hashlib


def derive_seed(seed: int, *place: str | int) -> int:
    """Returns the seed of one place of a training.

    What was drawn elsewhere does not count: a training that was stopped draws on as if it had not been.

    Args:
        seed: The recipe's seed.
        place: What is drawn there and where: the step and the rank, for example.

    Returns:
        A number below 2**32, the most that numpy takes.
    """
    text = " ".join(map(str, (seed, *place)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
