"""Arguments of the commands that ask a model which stands alone: which one, how it is held, and how much it may say."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from cvft.errors import Problem, quote


def add_model(parser: argparse.ArgumentParser) -> None:
    """Takes the model that is asked."""
    parser.add_argument(
        "--model",
        metavar="MODEL",
        required=True,
        help="a run, an adapter, a checkpoint or a merged model, by its folder; `tiny`; or a published model, by its name",
    )
    parser.add_argument(
        "--base", metavar="FOLDER", type=Path, help="where the adapter's base lies by now, when it was moved"
    )
    parser.add_argument(
        "--quantize", choices=("none", "nf4", "int8"), help="hold the decoder blocks in 4 or 8 bits; else as trained"
    )
    parser.add_argument(
        "--max-new-tokens",
        metavar="N",
        type=int,
        help="longest answer in tokens; else 512, or what the question leaves",
    )


def add_system(parser: argparse.ArgumentParser) -> None:
    """Takes a system text; `check_model` checks it."""
    parser.add_argument("--system", metavar="TEXT", help="the system text, in place of the model's own")


def check_model(options: argparse.Namespace) -> list[Problem]:
    """Returns a problem for what no model could carry out."""
    problems = []
    if options.max_new_tokens is not None and options.max_new_tokens < 1:
        problems.append(Problem("--max-new-tokens", quote(options.max_new_tokens), "at least 1"))
    if getattr(options, "system", None) is not None and not options.system.strip():
        problems.append(Problem("--system", "no text", "one, or leave it out: the model's own is then taken"))
    return problems


def how_to_ask(options: argparse.Namespace) -> dict[str, Any]:
    """Returns what `add_model` took beside the model, as `cvft.predict` takes it."""
    return {"quantize": options.quantize, "base": options.base, "max_new_tokens": options.max_new_tokens}
