"""`cvft preview`: what a model is fed, as a page."""

from __future__ import annotations

import argparse
from pathlib import Path

from cvft.cli.commands.checked import add_data, check_data
from cvft.errors import CvftError, Problem

SUMMARY = "show what a model is fed: frames at their seconds, the tokens that are trained, what a check has found"
EXAMPLES = (
    "cvft preview recipes/tiny_cpu.yaml",
    "cvft preview train.jsonl --video-root clips --rows 50",
    "cvft preview recipes/tiny_cpu.yaml --output preview.html",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Says what can be given."""
    add_data(parser)
    parser.add_argument(
        "--output", metavar="FILE", type=Path, default=Path("preview.html"), help="the page (preview.html)"
    )
    parser.add_argument("--rows", metavar="N", type=int, help="most rows to show (200)")


def run(options: argparse.Namespace) -> object:
    """Runs the command and returns what it prints."""
    if options.rows is not None and options.rows < 1:
        raise CvftError("command line", [Problem("--rows", f"`{options.rows}`", "at least 1")])
    checked = check_data(options, outputs=[options.output])
    from cvft.report.preview import NUM_ROWS, render_with, write_preview

    rendering = None if checked.job is None else render_with(checked.job)
    return write_preview(checked.found, options.output, rendering=rendering, num_rows=options.rows or NUM_ROWS)
