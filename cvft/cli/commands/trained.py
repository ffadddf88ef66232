"""Arguments of the commands that ask a run which was trained: one of its checkpoints, and a base that was moved."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cvft.plan.job import Job
    from cvft.recipe import LoadedRecipe


def add_trained(parser: argparse.ArgumentParser) -> None:
    """Takes what says which of a run's models is meant, and where its base lies."""
    parser.add_argument("--base", metavar="FOLDER", type=Path, help="where the base lies by now, when it was moved")
    parser.add_argument(
        "--checkpoint",
        metavar="STEP",
        help="a checkpoint that the run kept, by its step, `best` or `last`; else its adapter",
    )


def open_trained(options: argparse.Namespace, loaded: LoadedRecipe) -> Job:
    """Opens the job of the run that `add_recipe` and `add_trained` took; what a checkpoint needs is made."""
    from cvft.plan.trained import contract_of, open_trained_job
    from cvft.runs import find_run, find_trained_run

    if options.checkpoint is None:
        return open_trained_job(loaded, find_trained_run(loaded), base=options.base)
    from cvft.train.adapters import adopt_checkpoint, choose_checkpoint

    run = choose_checkpoint(find_run(loaded), options.checkpoint, by=loaded.recipe.train.select_by)
    if getattr(options, "model", None) == "merged":
        from cvft.predict.trained import find_merged

        find_merged(run)
    job = open_trained_job(loaded, run, base=options.base)
    adopt_checkpoint(run, contract=contract_of(run))
    return job
