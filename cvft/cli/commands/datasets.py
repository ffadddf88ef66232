"""`cvft datasets`: the datasets that recipes may name."""

from __future__ import annotations

import argparse
from pathlib import Path

SUMMARY = "list the datasets that recipes may name, their licences, and how to get them"
EXAMPLES = ("cvft datasets", "cvft datasets --root /data/datasets")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Says what can be given."""
    parser.add_argument(
        "--root", metavar="DIR", type=Path, default=Path("datasets"), help="where they lie: data.datasets of a recipe"
    )


def run(options: argparse.Namespace) -> object:
    """Runs the command and returns what it prints."""
    from cvft.cards import describe_cards

    return describe_cards(options.root)
