"""`cvft infer`: one question about a clip, a file of rows, or a folder of clips."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cvft.cli.arguments import add_num_gpus, check_num_gpus
from cvft.cli.commands.asked import add_model, add_system, check_model, how_to_ask
from cvft.cli.commands.fetched import add_urls, open_cache
from cvft.cli.commands.shares import add_share, read_share
from cvft.errors import CvftError, Problem, quote

if TYPE_CHECKING:
    from cvft.data.shares import Share

SUMMARY = "answer one question about a clip, a file of rows, or one question about each clip of a folder"
EXAMPLES = (
    'cvft infer --model runs/tiny_cpu/merged --video clip.mp4 --query "What happens?"',
    "cvft infer --model runs/tiny_cpu/adapter --data rows.jsonl --output predictions.jsonl",
    "cvft infer --model runs/tiny_cpu --data rows.jsonl --output predictions.jsonl --num-gpus 4",
    'cvft infer --model tiny --caption clips --query "What is shown?" --output captions.csv --format csv',
    'cvft infer --model tiny --video clip.mp4 --query "What is shown?"',
    'cvft infer --model tiny --video film.mp4 --start 120 --end 131.5 --query "What falls?"',
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Says what can be given."""
    add_model(parser)
    parser.add_argument("--video", metavar="FILE|URL", help="the clip to ask about")
    parser.add_argument("--start", metavar="S", type=float, help="ask about the clip from this second of the file on")
    parser.add_argument("--end", metavar="S", type=float, help="ask about the clip up to this second of the file")
    parser.add_argument("--query", metavar="TEXT", help="the question")
    parser.add_argument("--history", metavar="JSON", help='earlier turns: [["question", "answer"], ...]')
    add_system(parser)
    parser.add_argument("--data", metavar="FILE", type=Path, help="rows to answer instead of one question")
    parser.add_argument(
        "--caption", metavar="FOLDER", type=Path, help="ask about each clip of a folder, and of all folders in it"
    )
    add_share(parser, "answer")
    add_num_gpus(parser)
    parser.add_argument(
        "--format",
        choices=("jsonl", "csv", "srt"),
        help="how the answers are written; srt: times in one clip; else jsonl",
    )
    parser.add_argument("--output", metavar="FILE", type=Path, help="where the answers to the rows go")
    add_urls(parser)


def run(options: argparse.Namespace) -> object:
    """Runs the command and returns what it prints."""
    history, shard = _check_infer(options)
    from cvft.predict.infer import infer_file, infer_folder, infer_one

    how, cache = how_to_ask(options), open_cache(options)
    if options.data is None and options.caption is None:
        asked = {"video": options.video, "query": options.query, "history": history, "system": options.system}
        return infer_one(options.model, **asked, stretch=(options.start, options.end), cache=cache, **how)
    how |= {
        "output": options.output,
        "shard": shard,
        "form": options.format or "jsonl",
        "num_ranks": options.num_gpus or 1,
    }
    if options.data is not None:
        return infer_file(options.model, data=options.data, cache=cache, **how)
    return infer_folder(options.model, folder=options.caption, query=options.query, system=options.system, **how)


def _check_infer(options: argparse.Namespace) -> tuple[list[tuple[str, str]], Share | None]:
    problems = check_model(options) + check_num_gpus(options)
    many = [name for name in ("data", "caption") if getattr(options, name) is not None]
    if options.data is None and options.query is None:
        problems.append(Problem("--query", "nothing", "a question, or `--data` with a file of rows"))
    if not many:
        problems += [
            Problem(f"--{name}", "it without `--data`", "both, or `--query` alone")
            for name in ("output", "shard", "num-gpus", "format")
            if getattr(options, name.replace("-", "_")) is not None
        ]
    else:
        alone = ("video", "start", "end", "history", *(("query", "system", "caption") if many[0] == "data" else ()))
        what = {"data": "one question or a file of rows", "caption": "one clip or a folder"}[many[0]]
        problems += [
            Problem(f"--{name}", f"it beside `--{many[0]}`", f"{what}, not both")
            for name in alone
            if getattr(options, name) is not None
        ]
        if options.caption is not None:
            problems += [
                Problem(f"--{name}", "it beside `--caption`", "nothing is fetched for a folder of clips: leave it out")
                for name, value in (("cache", options.cache), ("allow-host", options.allow_host))
                if value
            ]
        if options.output is None:
            problems.append(Problem("--output", "nothing", f"the file that the answers to `--{many[0]}` go to"))
    problems += _check_stretch(options)
    history, problem = _parse_history(options.history)
    problems += [] if problem is None else [problem]
    shard = read_share(options, problems)
    if problems:
        raise CvftError("command line", problems)
    return history, shard


def _check_stretch(options: argparse.Namespace) -> list[Problem]:
    problems = []
    for name in ("start", "end"):
        second = getattr(options, name)
        if second is not None and not 0 <= second < math.inf:
            problems.append(Problem(f"--{name}", quote(second), "seconds from the first frame of the file, 0 or more"))
        if second is not None and options.video is None and options.data is None and options.caption is None:
            problems.append(
                Problem(f"--{name}", "it without `--video`", "both: it says which part of the clip is meant")
            )
    if options.end is not None and options.end <= (options.start or 0):
        problems.append(Problem("--end", quote(options.end), f"more than `--start` ({options.start or 0:g} s)"))
    return problems


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
