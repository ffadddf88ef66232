"""`cvft run`: the whole job."""

from __future__ import annotations

import argparse

from cvft.cli.arguments import add_recipe, load

SUMMARY = "train, merge, verify, evaluate and report, resuming where it stopped"
EXAMPLES = (
    "cvft run recipes/tiny_cpu.yaml",
    "cvft run my/recipe.yaml data.train=my/train.jsonl name=first_try",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Says what can be given."""
    add_recipe(parser)


def run(options: argparse.Namespace) -> object:
    """Runs the command and returns what it prints."""
    loaded = load(options)
    from cvft.pipeline import run_all

    return run_all(loaded)
