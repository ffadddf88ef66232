"""`cvft schema`: the JSON schema of a recipe."""

from __future__ import annotations

import argparse

SUMMARY = "print the JSON schema of a recipe, for editors"
EXAMPLES = ("cvft schema > recipe.schema.json",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Says what can be given."""
    del parser


def run(options: argparse.Namespace) -> object:
    """Runs the command and returns what it prints."""
    del options
    from cvft.recipe import schema_json

    return schema_json().rstrip("\n")
