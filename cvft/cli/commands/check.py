"""`cvft check`: what is wrong, odd or worth knowing about rows and clips."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from cvft.cli.commands.checked import add_data, check_data, prove_data
from cvft.cli.commands.shares import add_share, read_share
from cvft.errors import EXIT_INCOMPLETE, EXIT_USER_ERROR, CvftError, FoundError, Problem

if TYPE_CHECKING:
    from cvft.data.shares import Share

LOG = logging.getLogger(__name__)

SUMMARY = "say what is wrong, odd or worth knowing about rows and clips, before they are trained on"
EXAMPLES = (
    "cvft check recipes/tiny_cpu.yaml",
    "cvft check train.jsonl val.jsonl --video-root clips",
    "cvft check recipes/tiny_cpu.yaml --output check.json",
    "cvft check train.jsonl --fix",
    "cvft check train.jsonl --shard 0/8",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Says what can be given."""
    add_data(parser)
    parser.add_argument("--json", action="store_true", help="print every finding as JSON")
    parser.add_argument(
        "--fix", action="store_true", help="write FILE.clean.jsonl beside each file, and what was left out of it"
    )
    add_share(parser, "only decode the clips of")
    parser.add_argument("--output", metavar="FILE", type=Path, help="write every finding to this file, as JSON")


def run(options: argparse.Namespace) -> object:
    """Runs the command and returns what it prints."""
    if (share := _read_share(options)) is not None:
        return str(prove_data(options, share))
    from cvft.data.doctor.fix import check_targets, fix_files

    checked, _ = check_data(options, outputs=[options.output], before=check_targets if options.fix else None)
    from cvft.data.doctor.check import describe
    from cvft.files import write_whole

    text = json.dumps(checked.to_dict(), indent=2)
    if options.output is not None:
        write_whole(options.output, text + "\n")
    print(text if options.json else describe(checked))
    if options.fix:
        fixed = fix_files(checked)
        for each in fixed:
            LOG.info("%s", each)
        if not fixed:
            LOG.info("fixed     nothing: there is no row to leave out, and no clip on both sides")
    if checked.count("error") or checked.count("warning"):
        code = EXIT_USER_ERROR if checked.count("error") else EXIT_INCOMPLETE
        raise FoundError(f"found {checked.totals}", exit_code=code)
    return None


def _read_share(options: argparse.Namespace) -> Share | None:
    """Returns the share that was asked for.

    Raises:
        CvftError: when there is no such share, or when it is to tell what only the check of all clips knows.
    """
    problems: list[Problem] = []
    share = read_share(options, problems)
    if options.shard is not None:
        given = {"--json": options.json, "--fix": options.fix, "--output": options.output is not None}
        need = "neither: once all shares are through, the check without `--shard` says what they found"
        problems += [Problem(name, "it beside `--shard`", need) for name, is_given in given.items() if is_given]
    if problems:
        raise CvftError("command line", problems)
    return share
