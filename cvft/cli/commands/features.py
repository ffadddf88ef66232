"""`cvft features`: every clip encoded ahead of training."""

from __future__ import annotations

import argparse

from cvft.cli.arguments import add_recipe, load

SUMMARY = "encode every clip once, ahead of training"
EXAMPLES = ("cvft features recipes/tiny_cpu.yaml",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Says what can be given."""
    add_recipe(parser)


def run(options: argparse.Namespace) -> object:
    """Runs the command and returns what it prints."""
    loaded = load(options)
    from cvft.clips.ahead import build_ahead
    from cvft.plan.job import open_job

    return build_ahead(open_job(loaded))
