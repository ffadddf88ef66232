"""A family's weight files, proved from their headers: exactly the tensors that the family states, in every folder. No torch."""

from __future__ import annotations

from cvft.families.family import Family
from cvft.weights.folder import ModelFolder
from cvft.weights.shards import Shard, read_shards


def read_model_shards(folder: ModelFolder, family: Family) -> list[Shard]:
    """Reads the headers of a model's weight files and proves that together they are exactly the model.

    Args:
        folder: The model folder.
        family: Its family.

    Returns:
        The files in name order.

    Raises:
        ModelError: with everything that is missing, damaged, unknown, double, misplaced or of another shape.
    """
    return read_shards(folder.path, family.tensors(folder.config), module_of=family.module_of)
