"""`cvft report`: the page of a run, made again from what is stored, also while it trains."""

from __future__ import annotations

import argparse

from cvft.cli.arguments import add_recipe, load

SUMMARY = "write a run's page again from what is stored; also while it trains"
EXAMPLES = (
    "cvft report runs/tiny_cpu",
    "cvft report recipes/tiny_cpu.yaml",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Says what can be given."""
    add_recipe(parser)


def run(options: argparse.Namespace) -> object:
    """Runs the command and returns what it prints."""
    loaded = load(options)
    from cvft.report.run import rewrite_report

    return f"report    {rewrite_report(loaded)}"
