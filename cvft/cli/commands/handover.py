"""`cvft handover`: a merged model to a serving engine."""

from __future__ import annotations

import argparse
from pathlib import Path

from cvft.errors import CvftError, Problem, quote

SUMMARY = "hand a merged model over to a serving engine: its command, and a script that compares its answers there"
EXAMPLES = (
    "cvft handover vllm runs/my --output handover",
    "cvft handover vllm runs/my/merged --data rows.jsonl --send clips --output handover",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Says what can be given."""
    parser.add_argument("engine", metavar="ENGINE", choices=("vllm", "sglang"), help="`vllm` or `sglang`")
    parser.add_argument("model", metavar="MODEL", help="a run that was exported, or a merged model, by its folder")
    parser.add_argument("--output", metavar="FOLDER", type=Path, required=True, help="the folder to write")
    parser.add_argument("--data", metavar="FILE", type=Path, help="rows to compare on; else the run's val rows")
    parser.add_argument("--num-rows", metavar="N", type=int, default=32, help="most rows to compare; else 32")
    parser.add_argument(
        "--send",
        choices=("frames", "clips"),
        default="frames",
        help="what requests carry: frames that cvft has chosen, or clips whose frames the engine chooses (%(default)s)",
    )
    parser.add_argument("--max-new-tokens", metavar="N", type=int, help="longest answer in tokens; else 512")
    parser.add_argument("--name", metavar="NAME", help="the model's name for clients; else that of its run or folder")


def run(options: argparse.Namespace) -> object:
    """Runs the command and returns what it prints."""
    counts = {"--num-rows": options.num_rows, "--max-new-tokens": options.max_new_tokens}
    problems = [Problem(name, quote(n), "at least 1") for name, n in counts.items() if n is not None and n < 1]
    if problems:
        raise CvftError("command line", problems)
    from cvft.handover.run import hand_over

    return hand_over(
        options.engine,
        options.model,
        output=options.output,
        data=options.data,
        num_rows=options.num_rows,
        sends=options.send,
        max_new_tokens=options.max_new_tokens,
        name=options.name,
    )
