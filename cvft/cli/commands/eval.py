"""`cvft eval`: answers to the val rows, and their metrics."""

from __future__ import annotations

import argparse

from cvft.cli.arguments import add_recipe, load

SUMMARY = "answer the val rows and print the metrics as JSON"
EXAMPLES = (
    "cvft eval recipes/tiny_cpu.yaml --model base",
    "cvft eval runs/tiny_cpu --model merged",
    "cvft eval recipes/tiny_cpu.yaml eval.num_rows=50 --model adapter",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Says what can be given."""
    add_recipe(parser)
    parser.add_argument(
        "--model", choices=("base", "adapter", "merged"), default="adapter", help="which model answers (%(default)s)"
    )


def run(options: argparse.Namespace) -> object:
    """Runs the command and returns what it prints."""
    loaded = load(options)
    from cvft.evaluate.run import evaluate_run
    from cvft.plan.job import open_job
    from cvft.runs import find_trained_run

    find_trained_run(loaded)
    return evaluate_run(open_job(loaded), variant=options.model).metrics
