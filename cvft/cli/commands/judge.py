"""`cvft judge`: stored answers graded by another model, at any OpenAI-compatible endpoint."""

from __future__ import annotations

import argparse
import json
import logging
import math
from typing import Any

from cvft.cli.interrupts import raised_only
from cvft.errors import CvftError, IncompleteError, Problem, quote

SUMMARY = "let another model grade stored answers, at any OpenAI-compatible endpoint"
EXAMPLES = (
    "cvft judge runs/my:base runs/my:merged --url http://127.0.0.1:8000/v1 --judge-model Qwen3-32B --cost",
    "cvft judge runs/my:base runs/my:merged --url http://127.0.0.1:8000/v1 --judge-model Qwen3-32B",
    "cvft judge runs/my --url https://judge.example/v1 --judge-model large --rubric correctness --rubric detail --per-minute 60",
)

RUBRICS = ("match", "correctness", "detail", "context", "temporal", "consistency")
"""Names of the rubrics, named here so that help needs nothing but the standard library."""

MAX_WORKERS = 64
"""Most calls at a time."""

OWN_FIELDS = ("model", "messages", "temperature")
"""Fields of a request that have options of their own."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Says what can be given."""
    parser.add_argument(
        "runs",
        metavar="RUN[:MODEL]",
        nargs="+",
        help="a run's folder; MODEL is a folder of its eval/, else the tuned model",
    )
    parser.add_argument("--url", required=True, help="the endpoint, up to and with /v1; a key: CVFT_JUDGE_API_KEY")
    parser.add_argument("--judge-model", metavar="NAME", required=True, help="the judge's name at the endpoint")
    parser.add_argument(
        "--rubric",
        action="append",
        choices=RUBRICS,
        help="what is graded; may be given again; else match: yes or no, and a score",
    )
    parser.add_argument(
        "--temperature", default="0", help="of the judge, or `unset` to leave it to the endpoint (%(default)s)"
    )
    parser.add_argument("--fields", metavar="JSON", help='more fields of each request, such as {"max_tokens": 300}')
    parser.add_argument("--per-minute", metavar="N", type=float, help="most calls that start in a minute; else any")
    parser.add_argument("--workers", metavar="N", type=int, default=4, help="calls at a time (%(default)s)")
    parser.add_argument(
        "--tries", metavar="N", type=int, default=5, help="calls for an answer, until a reply can be read (%(default)s)"
    )
    parser.add_argument(
        "--timeout", metavar="SECONDS", type=float, default=120.0, help="what one call may take (%(default)s)"
    )
    parser.add_argument("--cost", action="store_true", help="only say what it would cost; no call is made")


def run(options: argparse.Namespace) -> object:
    """Runs the command and returns what it prints."""
    temperature, fields = _check(options)
    from cvft.evaluate.judge.asking import Manner
    from cvft.evaluate.judge.cases import Judge
    from cvft.evaluate.judge.run import estimate_cost, judge_evaluations
    from cvft.report.judged import describe_scores

    names, rubrics = list(dict.fromkeys(options.runs)), options.rubric or [RUBRICS[0]]
    judge = Judge(options.judge_model, temperature, fields)
    if options.cost:
        return estimate_cost(names, rubrics=rubrics, judge=judge, url=options.url, num_tries=options.tries)
    # it would say every call
    logging.getLogger("httpx").setLevel(logging.WARNING)
    manner = Manner(options.workers, options.per_minute, options.tries, options.timeout)
    with raised_only():  # the event loop ends its calls itself
        judged = judge_evaluations(names, rubrics=rubrics, judge=judge, url=options.url, manner=manner)
    text = describe_scores(judged)
    num_without = sum(each.summary["num_without_reply"] for found in judged.values() for each in found)
    if num_without:
        print(text)
        raise IncompleteError(
            f"{num_without} cases got no reply; the others are written. The same command asks about those alone"
        )
    return text


def _check(options: argparse.Namespace) -> tuple[float | None, dict[str, Any]]:
    problems = []
    for name, low, high in (("workers", 1, MAX_WORKERS), ("tries", 1, 100)):
        value = getattr(options, name)
        if not low <= value <= high:
            problems.append(Problem(f"--{name}", quote(value), f"a whole number from {low} to {high}"))
    for name in ("per_minute", "timeout"):
        value = getattr(options, name)
        if value is not None and not 0 < value < math.inf:
            problems.append(Problem(f"--{name.replace('_', '-')}", quote(value), "a number above 0"))
    if not options.judge_model.strip():
        problems.append(Problem("--judge-model", "an empty text", "the judge's name at the endpoint"))
    temperature: float | None = None
    if options.temperature != "unset":
        try:
            temperature = float(options.temperature)
        except ValueError:
            temperature = math.nan
        if not 0 <= temperature <= 2:
            problems.append(Problem("--temperature", quote(options.temperature), "a number from 0 to 2, or `unset`"))
    fields, problem = _parse_fields(options.fields)
    if problem is not None:
        problems.append(problem)
    if problems:
        raise CvftError("command line", problems)
    return temperature, fields


def _parse_fields(text: str | None) -> tuple[dict[str, Any], Problem | None]:
    need = 'a JSON object such as `{"max_tokens": 300}`'
    if text is None:
        return {}, None
    try:
        fields: Any = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        return {}, Problem("--fields", quote(text), need)
    taken = [name for name in OWN_FIELDS if name in fields]
    if taken:
        return {}, Problem("--fields", f"the field {quote(taken[0])}", "fields that no other option sets")
    if fields.get("stream") or fields.get("n", 1) != 1:
        return {}, Problem("--fields", quote(text), "one reply, and in one piece", "leave `stream` and `n` out")
    return fields, None


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
