"""`cvft compare`: evaluations of several runs on the same rows, side by side."""

from __future__ import annotations

import argparse
from pathlib import Path

SUMMARY = "set evaluations of the same rows side by side, with what differs by more than chance"
EXAMPLES = (
    "cvft compare runs/first runs/second",
    "cvft compare runs/tiny_cpu:base runs/tiny_cpu:merged --page comparison.html",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Says what can be given."""
    parser.add_argument(
        "runs",
        metavar="RUN[:MODEL]",
        nargs="+",
        help="a run's folder; MODEL is a folder of its eval/, else the tuned model",
    )
    parser.add_argument("--page", metavar="FILE", type=Path, help="write the comparison as an HTML page too")


def run(options: argparse.Namespace) -> object:
    """Runs the command and returns what it prints."""
    from cvft.report.compare import compare_runs

    compared = compare_runs(options.runs)
    text = compared.to_text()
    return text if options.page is None else f"{text}\n\npage      {compared.write_page(options.page)}"
