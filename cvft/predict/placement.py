"""Where a model that answers goes: one GPU, all that are there, or each of them. Pure: facts come in as values."""

from __future__ import annotations

import math
from collections.abc import Sequence

from cvft.dtypes import BY_NAME
from cvft.errors import ModelError, Problem
from cvft.families.parts import weight_bytes
from cvft.plan.job import Job

WEIGHTS_SHARE = 1.05
"""What weights take with an adapter and the allocator's losses, relative to their size."""

RESERVE_BYTES = 2 << 30
"""What a GPU needs beyond weights for answering: keys, values and activations of a batch."""

MEMORY_OF_GPUS = "memory of the GPUs"
"""Where a model that finds no room is said to have found none."""

MIN_BATCHES = 8
"""Batches that have to be there for each rank before a command takes several by itself: loading the model once more takes as long
as some batches do."""


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
                MEMORY_OF_GPUS,
                f"{got} GiB free",
                f"{need / 2**30:.1f} GiB for the weights, and {RESERVE_BYTES / 2**30:.0f} GiB more on each",
                hint,
            )
        ],
    )


def choose_num_ranks(job: Job, *, num_rows: int) -> int:
    """Decides how many ranks answer rows where nobody says: those that trained, where that is faster.

    Args:
        job: The job of a trained run.
        num_rows: Number of rows.

    Returns:
        The ranks; one where the model may have to be spread over GPUs, or where there is too little to do for several.
    """
    if job.ranks.device == "cuda":
        dtypes = (job.recipe.model.dtype, job.recipe.merged_dtype)
        num_bytes = weight_bytes(
            job.family.parts,
            job.model.shapes,
            value_bytes=max(BY_NAME[dtype].num_bytes for dtype in dtypes),
            quantize=job.recipe.model.quantize,
        )
        # twice: the process that starts the ranks keeps a part of its own GPU
        if num_bytes * WEIGHTS_SHARE + 2 * RESERVE_BYTES > (job.memory_bytes or 0):
            return 1
    num_batches = math.ceil(num_rows / job.recipe.eval.batch_rows)
    return max(1, min(job.ranks.num_per_node, num_batches // MIN_BATCHES))
