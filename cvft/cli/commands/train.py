"""`cvft train`: the adapter alone."""

from __future__ import annotations

import argparse

from cvft.cli.arguments import add_recipe, load

SUMMARY = "train the adapter only"
EXAMPLES = (
    "cvft train recipes/tiny_cpu.yaml lora.targets=all-linear",
    "cvft train recipes/tiny_cpu.yaml train.max_steps=20 name=short",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Says what can be given."""
    add_recipe(parser)


def run(options: argparse.Namespace) -> object:
    """Runs the command and returns what it prints."""
    loaded = load(options)
    from cvft.plan.job import open_job
    from cvft.train.run import is_trained, train

    folder = train(open_job(loaded, trains=not is_trained(loaded)))
    return folder.adapter if folder is not None else "this machine's ranks are done: the first machine has the adapter"
