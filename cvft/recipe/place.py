"""Where a run lies: relative to the current folder, or where the same recipe has made it before.

A relative `output.root` starts at the current folder. The run of a recipe that is called from another folder is found: it is
looked for in the folders above the recipe file, and taken where its snapshot is the same training of the same data.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

from cvft.errors import CvftError
from cvft.recipe.fingerprint import weights_fingerprint
from cvft.recipe.schema import Output, Recipe

LOG = logging.getLogger(__name__)

SNAPSHOT_FILE = "recipe.yaml"
"""In a run's folder: the recipe that made it."""


def find_run(recipe: Recipe, *, file: Path, read: Callable[[Path], Recipe]) -> Recipe:
    """Finds the run that a recipe has made when it was called from another folder.

    Args:
        recipe: The recipe; its `name` is set.
        file: The file that it was loaded from.
        read: Reads the snapshot of an earlier run.

    Returns:
        The recipe, its output where that run lies; unchanged where none is found, or where one lies under the current folder.
    """
    output = recipe.output
    run_dir = recipe.run_dir
    if run_dir.is_absolute() or os.path.isfile(run_dir / SNAPSHOT_FILE):
        return recipe
    for base in file.absolute().parents:
        if _is_of(recipe, base / run_dir / SNAPSHOT_FILE, read=read):
            LOG.info("run       %s was made by this recipe", base / run_dir)
            features = None if output.features is None else base / output.features
            return recipe.model_copy(update={"output": Output(root=base / output.root, features=features)})
    return recipe


def with_absolute_output(recipe: Recipe) -> Recipe:
    """Returns a recipe that means the same run from every folder."""
    root, features = recipe.output.root, recipe.output.features
    output = Output(root=root.absolute(), features=None if features is None else features.absolute())
    return recipe.model_copy(update={"output": output})


def _is_of(recipe: Recipe, snapshot: Path, *, read: Callable[[Path], Recipe]) -> bool:
    try:
        earlier = read(snapshot) if os.path.isfile(snapshot) else None
    except (CvftError, OSError):
        return False
    if earlier is None or earlier.data != recipe.data:
        return False
    return weights_fingerprint(earlier) == weights_fingerprint(recipe)
