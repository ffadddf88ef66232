"""Arguments that several commands share: a recipe with overrides."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from cvft.errors import Problem, quote
from cvft.row_formats import FORMAT_NAMES

if TYPE_CHECKING:
    from cvft.recipe import LoadedRecipe


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """Takes a recipe, or the folder of a run, and overrides."""
    parser.add_argument("recipe", metavar="RECIPE", type=Path, help="a recipe file, or the folder of a run")
    add_overrides(parser)


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Takes settings that replace those of a recipe."""
    parser.add_argument("overrides", metavar="key.path=value", nargs="*", help="settings that replace the recipe's")


def add_format(parser: argparse.ArgumentParser) -> None:
    """Takes how a file of rows is written."""
    parser.add_argument(
        "--format",
        choices=FORMAT_NAMES,
        default="auto",
        help="how the rows are written (default: auto, found by the rows)",
    )


def add_num_gpus(parser: argparse.ArgumentParser) -> None:
    """Takes how many processes answer rows."""
    parser.add_argument(
        "--num-gpus",
        metavar="N",
        type=int,
        help="answer on N GPUs, a model on each; without a GPU, in N processes (default: one process)",
    )


def check_num_gpus(options: argparse.Namespace) -> list[Problem]:
    """Returns a problem for what no machine could carry out."""
    if options.num_gpus is None or options.num_gpus >= 1:
        return []
    return [Problem("--num-gpus", quote(options.num_gpus), "at least 1")]


def load(options: argparse.Namespace) -> LoadedRecipe:
    """Loads what `add_recipe` took."""
    from cvft.recipe import load_recipe
    from cvft.recipe.place import SNAPSHOT_FILE

    path: Path = options.recipe
    overrides: list[str] = options.overrides
    # by its snapshot as well; a recipe of that name that is no snapshot has no plan beside it
    is_snapshot = path.name == SNAPSHOT_FILE and (path.parent / "plan.json").is_file()
    folder = path.parent if is_snapshot else path
    if folder.is_dir() and (folder / SNAPSHOT_FILE).is_file():
        # the folder may have been moved or renamed since; it is this one that is meant
        location = folder.resolve()
        place = {"output.root": str(location.parent), "name": location.name}
        stated = {word.partition("=")[0].strip() for word in overrides}
        overrides = [
            *(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in place.items() if key not in stated),
            *overrides,
        ]
        path = folder / SNAPSHOT_FILE
    return load_recipe(path, overrides=overrides)
