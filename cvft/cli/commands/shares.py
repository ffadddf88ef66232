"""`--shard I/N` of the commands that do a share of the clips alone."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from cvft.errors import Problem, ValueProblem

if TYPE_CHECKING:
    from cvft.data.shares import Share


def add_share(parser: argparse.ArgumentParser, does: str) -> None:
    """Takes `--shard I/N`.

    Args:
        parser: What reads the arguments.
        does: What is done to the share.
    """
    what = f"{does} share I of N alone, I from 0: of the clips, with all rows of each"
    parser.add_argument("--shard", metavar="I/N", help=what)


def read_share(options: argparse.Namespace, problems: list[Problem]) -> Share | None:
    """Returns the share that was given, and adds what is wrong with it to the problems."""
    from cvft.data.shares import parse_share

    if options.shard is None:
        return None
    try:
        return parse_share(options.shard)
    except ValueProblem as error:
        problems.append(error.at("--shard"))
        return None
