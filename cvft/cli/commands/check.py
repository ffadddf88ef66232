"""`cvft check`: what is wrong, odd or worth knowing about rows and clips."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from cvft.cli.commands.checked import add_data, check_data
from cvft.errors import EXIT_INCOMPLETE, EXIT_USER_ERROR, FoundError

SUMMARY = "say what is wrong, odd or worth knowing about rows and clips, before they are trained on"
EXAMPLES = (
    "cvft check recipes/tiny_cpu.yaml",
    "cvft check train.jsonl val.jsonl --video-root clips",
    "cvft check recipes/tiny_cpu.yaml --output check.json",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Says what can be given."""
    add_data(parser)
    parser.add_argument("--json", action="store_true", help="print every finding as JSON")
    parser.add_argument("--output", metavar="FILE", type=Path, help="write every finding to this file, as JSON")


def run(options: argparse.Namespace) -> object:
    """Runs the command and returns what it prints."""
    checked, _ = check_data(options, outputs=[options.output])
    from cvft.data.doctor.check import describe
    from cvft.files import write_whole

    text = json.dumps(checked.to_dict(), indent=2)
    if options.output is not None:
        write_whole(options.output, text + "\n")
    print(text if options.json else describe(checked))
    if checked.count("error") or checked.count("warning"):
        code = EXIT_USER_ERROR if checked.count("error") else EXIT_INCOMPLETE
        raise FoundError(f"found {checked.totals}", exit_code=code)
    return None
