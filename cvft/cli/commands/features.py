"""`cvft features`: what is kept of clips, made ahead of training."""

from __future__ import annotations

import argparse

from cvft.cli.arguments import add_recipe, load
from cvft.cli.commands.shares import add_share, read_share
from cvft.errors import CvftError, Problem

SUMMARY = "encode or decode every clip once, ahead of training, and keep that"
EXAMPLES = ("cvft features recipes/tiny_cpu.yaml", "cvft features recipes/tiny_cpu.yaml --shard 0/8")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Says what can be given."""
    add_recipe(parser)
    add_share(parser, "encode")


def run(options: argparse.Namespace) -> object:
    """Runs the command and returns what it prints."""
    problems: list[Problem] = []
    share = read_share(options, problems)
    if problems:
        raise CvftError("command line", problems)
    loaded = load(options)
    from cvft.clips.ahead import build_ahead, build_share
    from cvft.plan.job import open_job

    job = open_job(loaded)
    return build_ahead(job) if share is None else build_share(job, share)
