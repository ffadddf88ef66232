"""Where a model that answers goes: on one GPU, or spread over those that are there. Pure: facts come in as values."""

from __future__ import annotations

from collections.abc import Sequence

from cvft.errors import ModelError, Problem

WEIGHTS_SHARE = 1.05
"""What weights take with an adapter and the allocator's losses, relative to their size."""

RESERVE_BYTES = 2 << 30
"""What a GPU needs beyond weights for answering: keys, values and activations of a batch."""


def spreads_over_gpus(weight_bytes: int, free_bytes: Sequence[int]) -> bool:
    """Decides whether a model is spread over several GPUs; it is when the first one has no room for it.

    Args:
        weight_bytes: Size of its weights.
        free_bytes: What each GPU has left; the first is the one that is used alone.

    Returns:
        Whether it is spread.

    Raises:
        ModelError: when all of them together have no room.
    """
    need = weight_bytes * WEIGHTS_SHARE
    room = [max(0, free - RESERVE_BYTES) for free in free_bytes]
    if need <= room[0]:
        return False
    if need <= sum(room) and len(room) > 1:
        return True
    got = " + ".join(f"{free / 2**30:.1f}" for free in free_bytes)
    hint = "close other programs, show more GPUs, or set model.quantize: nf4"
    raise ModelError(
        "this machine",
        [
            Problem(
                "memory of the GPUs",
                f"{got} GiB free",
                f"{need / 2**30:.1f} GiB for the weights, and {RESERVE_BYTES / 2**30:.0f} GiB more on each",
                hint,
            )
        ],
    )
