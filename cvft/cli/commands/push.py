"""`cvft push`: a run's model to a hub."""

from __future__ import annotations

import argparse
from pathlib import Path

from cvft.cli.arguments import add_recipe, load

SUMMARY = "publish a run's adapter or verified merged model, with a card that says what it is"
EXAMPLES = (
    "cvft push runs/tiny_cpu --to me/my-model --private",
    "cvft push runs/tiny_cpu --to me/my-adapter --model adapter --card card.md",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Says what can be given."""
    add_recipe(parser)
    parser.add_argument("--to", metavar="OWNER/NAME", required=True, help="the repository on Hugging Face")
    parser.add_argument(
        "--model", choices=("adapter", "merged"), default="merged", help="which model to publish (%(default)s)"
    )
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--card", metavar="FILE", type=Path, help="only write the model card, and upload nothing")


def run(options: argparse.Namespace) -> object:
    """Runs the command and returns what it prints."""
    loaded = load(options)
    from cvft.export.publish import push_run

    return push_run(
        loaded, model_id=options.to, variant=options.model, is_private=options.private, card_file=options.card
    )
