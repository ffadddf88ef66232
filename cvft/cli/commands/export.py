"""`cvft export`: merge and verify."""

from __future__ import annotations

import argparse

from cvft.cli.arguments import add_recipe, load
from cvft.cli.commands.trained import add_trained, open_trained

SUMMARY = "merge a run's adapter into its base and verify the result"
EXAMPLES = (
    "cvft export recipes/tiny_cpu.yaml",
    "cvft export runs/tiny_cpu",
    "cvft export runs/tiny_cpu --checkpoint best",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Says what can be given."""
    add_recipe(parser)
    add_trained(parser)


def run(options: argparse.Namespace) -> object:
    """Runs the command and returns what it prints."""
    loaded = load(options)
    from cvft.export.run import export_run

    return export_run(open_trained(options, loaded))
