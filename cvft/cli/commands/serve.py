"""`cvft serve`: a model behind HTTP, and a page to ask it from."""

from __future__ import annotations

import argparse
import signal
from contextlib import suppress
from pathlib import Path

from cvft.cli.commands.asked import add_model, check_model
from cvft.cli.interrupts import raised_only
from cvft.errors import CvftError, Problem, quote

SUMMARY = "serve a model: an OpenAI-compatible API, and a page to ask it from"
EXAMPLES = (
    "cvft serve --model runs/tiny_cpu/merged --media-root clips",
    "cvft serve --model tiny --adapter tuned=runs/tiny_cpu/adapter",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Says what can be given."""
    add_model(parser)
    parser.add_argument("--name", metavar="NAME", help="the model's name for clients; else that of its folder")
    parser.add_argument(
        "--adapter",
        metavar="NAME=FOLDER",
        action="append",
        default=[],
        help="an adapter of the same base, served beside it by that name; may be given again",
    )
    parser.add_argument("--host", metavar="ADDRESS", default="127.0.0.1", help="where to listen; else 127.0.0.1")
    parser.add_argument("--port", metavar="N", type=int, default=8000, help="else 8000; 0 takes one that is free")
    parser.add_argument(
        "--media-root",
        metavar="FOLDER",
        type=Path,
        action="append",
        default=[],
        help="a folder whose clips may be named in requests; may be given again; else none",
    )
    parser.add_argument("--allow-urls", action="store_true", help="fetch clips that requests name by http(s) URL")
    parser.add_argument(
        "--allow-host",
        metavar="HOST",
        action="append",
        default=[],
        help="a host of URLs that may lie in an own network, at any port; may be given again; else public hosts alone",
    )
    parser.add_argument("--max-url-mib", metavar="N", type=int, help="largest clip that is fetched, in MiB; else 256")
    parser.add_argument("--max-waiting", metavar="N", type=int, help="requests that may wait; else 32")
    parser.add_argument("--max-body-mib", metavar="N", type=int, help="largest request in MiB; else 64")
    parser.add_argument("--batch-rows", metavar="N", type=int, help="answers that run at a time; else 16")
    parser.add_argument(
        "--prefix-gib", metavar="GIB", type=float, help="memory for clips that are asked about again; else 1"
    )


def run(options: argparse.Namespace) -> None:
    """Runs the command until it is stopped."""
    problems = check_model(options)
    adapters: dict[str, Path] = {}
    for text in options.adapter:
        name, _, folder = text.partition("=")
        if not name or not folder:
            problems.append(Problem("--adapter", quote(text), "NAME=FOLDER"))
        elif name in adapters:
            problems.append(Problem("--adapter", f"the name {quote(name)} twice", "other names"))
        adapters[name] = Path(folder)
    if not options.allow_urls:
        given = {"--allow-host": options.allow_host, "--max-url-mib": options.max_url_mib}
        problems += [Problem(name, "it without `--allow-urls`", "both, or neither") for name in given if given[name]]
    if problems:
        raise CvftError("command line", problems)
    from cvft.serve.run import Serving, serve

    stated = ("max_waiting", "max_body_mib", "batch_rows", "prefix_gib", "max_url_mib", "max_new_tokens")
    limits = {key: value for key in stated if (value := getattr(options, key)) is not None}
    serving = Serving(
        host=options.host,
        port=options.port,
        roots=options.media_root,
        allow_urls=options.allow_urls,
        allow_hosts=options.allow_host,
        **limits,
    )
    # the server ends its answers first; Ctrl-C and SIGTERM are how it is stopped, and no mistake
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with raised_only(), suppress(KeyboardInterrupt):
        serve(
            options.model,
            adapters=adapters,
            serving=serving,
            name=options.name,
            quantize=options.quantize,
            base=options.base,
        )
