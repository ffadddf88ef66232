"""`cvft demo`: the whole job on the tiny model, from recipe, rows and clips that ship with cvft."""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from pathlib import Path

from cvft.cli.arguments import add_overrides
from cvft.errors import CvftError, Problem, quote
from cvft.shipped import DEMO_DATASET, DEMO_RECIPE, find_examples

SUMMARY = "run the whole job on a tiny model and real mp4 files that ship with cvft; CPU, about 2 minutes"
EXAMPLES = (
    "cvft demo",
    "cvft demo lora.targets=all-linear name=tiny_all_linear",
    "cvft demo --write shapes",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Says what can be given."""
    add_overrides(parser)
    parser.add_argument(
        "--write",
        metavar="FOLDER",
        type=Path,
        help="only write all recipes that ship, and the demo's rows and clips, into a new folder, to look at and to change",
    )


def run(options: argparse.Namespace) -> object:
    """Runs the command and returns what it prints."""
    examples = find_examples()
    if examples is None:
        need = "the demo's recipe, rows and clips, which a wheel and a checkout hold"
        problem = Problem(
            str(DEMO_RECIPE), "a package without it", need, "install the wheel, or `pip install -e` a checkout"
        )
        raise CvftError("this installation", [problem])
    if options.write is not None:
        return _write(examples, options.write, overrides=options.overrides)
    from cvft.recipe import load_recipe

    loaded = load_recipe(examples / DEMO_RECIPE, overrides=options.overrides)
    from cvft.pipeline import run_all

    return run_all(loaded)


def _write(examples: Path, folder: Path, *, overrides: list[str]) -> str:
    from cvft.files import publish_folder, why_unwritable

    problems = []
    if overrides:
        hint = "change the recipe that is written, or give them to `cvft run`"
        problems.append(Problem("argument", quote(overrides[0]), "no settings beside --write", hint))
    target = folder.absolute()
    why = "it exists" if os.path.lexists(target) else why_unwritable(target)
    if why:
        problems.append(Problem("--write", f"{quote(folder)} ({why})", "a new folder that can be written"))
    if problems:
        raise CvftError("command line", problems)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as aside:
        whole = Path(aside, "whole")
        for name in (DEMO_RECIPE.parent, DEMO_DATASET):
            shutil.copytree(examples / name, whole / name, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
        publish_folder(whole, target)
    return f"recipe    {folder / DEMO_RECIPE}\nrows      {folder / DEMO_DATASET}"
