"""`cvft plan`: what a training would do."""

from __future__ import annotations

import argparse

from cvft.cli.arguments import add_recipe, load
from cvft.errors import CvftError
from cvft.progress import counting_clips

SUMMARY = "say what a training would do, take and refuse; needs no weights and no GPU"
EXAMPLES = (
    "cvft plan recipes/tiny_cpu.yaml",
    "cvft plan my/recipe.yaml --gpu A100-40GB",
    "cvft plan recipes/tiny_cpu.yaml --json > plan.json",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Says what can be given."""
    add_recipe(parser)
    parser.add_argument("--gpu", metavar="NAME", help="a GPU to plan for, such as A100-40GB; else this machine's")
    parser.add_argument("--clips", metavar="N", type=int, help="most clips to decode for the numbers (300)")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")


def run(options: argparse.Namespace) -> object:
    """Runs the command and returns what it prints."""
    loaded = load(options)
    from cvft.plan.describe import describe_forecast, forecast_json
    from cvft.plan.forecast import MAX_CLIPS_READ, forecast

    with counting_clips() as show:
        result = forecast(loaded, gpu_name=options.gpu, max_clips=options.clips or MAX_CLIPS_READ, on_progress=show)
    print(forecast_json(result) if options.json else describe_forecast(result))
    if result.refused:
        raise CvftError(f"recipe {loaded.recipe.name} on this machine", result.refused)
    return None
