"""Arguments that several commands share: a recipe with overrides."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cvft.recipe import LoadedRecipe


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """Takes a recipe, or the folder of a run, and overrides."""
    parser.add_argument("recipe", metavar="RECIPE", type=Path, help="a recipe file, or the folder of a run")
    parser.add_argument("overrides", metavar="key.path=value", nargs="*", help="settings that replace the recipe's")


def load(options: argparse.Namespace) -> LoadedRecipe:
    """Loads what `add_recipe` took."""
    from cvft.recipe import load_recipe

    path: Path = options.recipe
    overrides: list[str] = options.overrides
    snapshot = path / "recipe.yaml"
    if path.is_dir() and snapshot.is_file():
        # the folder may have been moved or renamed since; it is this one that is meant
        location = path.resolve()
        overrides = [f"output.root={json.dumps(str(location.parent))}", f"name={json.dumps(location.name)}", *overrides]
        path = snapshot
    return load_recipe(path, overrides=overrides)
