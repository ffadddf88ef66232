"""`cvft models`: the checkpoints that cvft knows."""

from __future__ import annotations

import argparse

SUMMARY = "list the checkpoints that cvft knows, and how to get them"
EXAMPLES = ("cvft models",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Says what can be given."""
    del parser


def run(options: argparse.Namespace) -> object:
    """Runs the command and returns what it prints."""
    del options
    from cvft.families.table import describe_checkpoints

    return describe_checkpoints()
