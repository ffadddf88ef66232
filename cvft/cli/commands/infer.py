"""`cvft infer`: one question about a clip, or a file of rows."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from cvft.cli.commands.asked import add_model, check_model, how_to_ask
from cvft.errors import CvftError, Problem, quote

SUMMARY = "answer one question about a clip, or a file of rows"
EXAMPLES = (
    'cvft infer --model runs/tiny_cpu/merged --video clip.mp4 --query "What happens?"',
    "cvft infer --model runs/tiny_cpu/adapter --data rows.jsonl --output predictions.jsonl",
    'cvft infer --model tiny --video clip.mp4 --query "What is shown?"',
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Says what can be given."""
    add_model(parser)
    parser.add_argument("--video", metavar="FILE", help="the clip to ask about")
    parser.add_argument("--query", metavar="TEXT", help="the question")
    parser.add_argument("--history", metavar="JSON", help='earlier turns: [["question", "answer"], ...]')
    parser.add_argument("--data", metavar="FILE", type=Path, help="rows to answer instead of one question")
    parser.add_argument("--output", metavar="FILE", type=Path, help="where the answers to the rows go")


def run(options: argparse.Namespace) -> object:
    """Runs the command and returns what it prints."""
    history = _check_infer(options)
    from cvft.predict.infer import infer_file, infer_one

    how = how_to_ask(options)
    if options.data is not None:
        return infer_file(options.model, data=options.data, output=options.output, **how)
    return infer_one(options.model, video=options.video, query=options.query, history=history, **how)


def _check_infer(options: argparse.Namespace) -> list[tuple[str, str]]:
    problems = check_model(options)
    if options.data is None:
        if options.query is None:
            problems.append(Problem("--query", "nothing", "a question, or `--data` with a file of rows"))
        if options.output is not None:
            problems.append(Problem("--output", "it without `--data`", "both, or `--query` alone"))
    else:
        problems += [
            Problem(f"--{name}", "it beside `--data`", "one question or a file of rows, not both")
            for name in ("video", "query", "history")
            if getattr(options, name) is not None
        ]
        if options.output is None:
            problems.append(Problem("--output", "nothing", "the file that the answers to `--data` go to"))
    history, problem = _parse_history(options.history)
    if problem is not None:
        problems.append(problem)
    if problems:
        raise CvftError("command line", problems)
    return history


def _parse_history(text: str | None) -> tuple[list[tuple[str, str]], Problem | None]:
    try:
        turns: Any = [] if text is None else json.loads(text)
    except (ValueError, RecursionError):
        turns = None
    good = isinstance(turns, list) and all(
        isinstance(turn, list) and len(turn) == 2 and all(isinstance(said, str) for said in turn) for turn in turns
    )
    if good:
        return [(question, answer) for question, answer in turns], None
    need = 'JSON such as `[["question", "answer"]]`'
    return [], Problem("--history", quote(text), need)
