"""`cvft eval`: answers to the val rows, or to those of another file, and their metrics."""

from __future__ import annotations

import argparse
from pathlib import Path

from cvft.cli.arguments import add_num_gpus, add_recipe, check_num_gpus, load
from cvft.cli.commands.trained import add_trained, open_trained
from cvft.errors import CvftError, Problem

SUMMARY = "answer the val rows, or those of another file, and print the metrics as JSON"
EXAMPLES = (
    "cvft eval recipes/tiny_cpu.yaml --model base",
    "cvft eval runs/tiny_cpu --model merged",
    "cvft eval runs/tiny_cpu --data test.jsonl --model merged",
    "cvft eval runs/tiny_cpu --checkpoint best",
    "cvft eval runs/tiny_cpu --model merged --num-gpus 4",
    "cvft eval runs/tiny_cpu --blind",
    "cvft eval recipes/tiny_cpu.yaml eval.num_rows=50 --model adapter",
)

VAL = "data.val="
"""Override that names another file of rows: it is evaluated beside the run's own."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Says what can be given."""
    add_recipe(parser)
    add_trained(parser)
    parser.add_argument(
        "--model", choices=("base", "adapter", "merged"), default="adapter", help="which model answers (%(default)s)"
    )
    parser.add_argument("--data", metavar="FILE", type=Path, help="rows to evaluate in place of the run's val rows")
    add_num_gpus(parser)
    parser.add_argument("--blind", action="store_true", help="ask without the clips: what can be guessed")


def run(options: argparse.Namespace) -> object:
    """Runs the command and returns what it prints."""
    data = _other_rows(options)
    loaded = load(options)
    from cvft.evaluate.run import evaluate_run

    job = open_trained(options, loaded)
    return evaluate_run(
        job, variant=options.model, data=data, is_blind=options.blind, num_ranks=options.num_gpus or 1
    ).metrics


def _other_rows(options: argparse.Namespace) -> Path | None:
    """Takes the file of other rows from the option, or from the override, which then says nothing about the run."""
    named = [word for word in options.overrides if word.startswith(VAL) and word != VAL]
    data: Path | None = options.data
    if data is not None and named:
        raise CvftError("command line", [Problem("--data", f"it beside `{named[0]}`", "one of the two")])
    if problems := check_num_gpus(options):
        raise CvftError("command line", problems)
    if options.checkpoint is not None and options.model == "base":
        raise CvftError("command line", [Problem("--checkpoint", "it with `--model base`", "a model that was trained")])
    if len(named) == 1:
        options.overrides = [word for word in options.overrides if word not in named]
        return Path(named[0].removeprefix(VAL)).expanduser()
    return data
