"""The command line: one subcommand per step, results on stdout, everything else on stderr.

Nothing but the standard library is imported until a command runs, so help appears at once.
Exit codes: 0 done, 1 some rows could not be answered, or a check has warnings, or an error of ours (with its traceback), 2 a
mistake in the input, 75 a training that was asked to stop (Ctrl-C, SIGTERM, SIGHUP or its stop file) and has saved a checkpoint,
130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import io
import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence

from cvft import __version__
from cvft.cli.interrupts import EXIT_INTERRUPTED, Interrupts
from cvft.errors import (
    EXIT_INCOMPLETE,
    EXIT_STOPPED,
    EXIT_USER_ERROR,
    CvftError,
    FoundError,
    IncompleteError,
    Problem,
    StoppedError,
    did_you_mean,
    quote,
)
from cvft.imports import collect_less_often, leave_user_site

COMMANDS = (
    "demo",
    "run",
    "check",
    "preview",
    "convert",
    "plan",
    "train",
    "features",
    "export",
    "eval",
    "judge",
    "report",
    "compare",
    "infer",
    "chat",
    "serve",
    "handover",
    "push",
    "models",
    "datasets",
    "schema",
    "doctor-env",
)
"""The commands in the order of the help; each is a file of `cvft.cli.commands`, a hyphen being `_` there."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: The arguments; without them, those of the process.

    Returns:
        The exit code.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    leave_user_site()
    collect_less_often()
    with Interrupts() as interrupts:
        try:
            code = _run(args)
        except KeyboardInterrupt:
            interrupts.asked = True
        except Exception:
            if not interrupts.asked:  # otherwise it is what a library made of the interrupt
                raise
        if interrupts.asked:
            print("interrupted", file=sys.stderr)
            return EXIT_INTERRUPTED
    return code


def _run(args: list[str]) -> int:
    for stream in (sys.stdout, sys.stderr):  # an answer that a terminal has no letters for must not end the command
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # The result goes to stdout, so nothing else may.
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    logging.getLogger("bitsandbytes").setLevel(
        logging.ERROR
    )  # peft imports it wherever it is installed, and it chatters
    parser = build_parser()
    try:
        _check_command(args)
        options, rest = parser.parse_known_args(args)
        # argparse ends a list of positionals at the first option; overrides may stand behind one as well.
        if rest and hasattr(options, "overrides") and all(not word.startswith("-") for word in rest):
            options.overrides += rest
        elif rest:
            raise CvftError("command line", [_unknown_argument(rest[0], command=args[0])])
        if options.handler is None:
            parser.print_help(sys.stderr)
            return EXIT_USER_ERROR
        _print_result(options.handler(options))
        sys.stdout.flush()
    except CvftError as error:
        print(error, file=sys.stderr)
        return EXIT_USER_ERROR
    except IncompleteError as incomplete:
        print(incomplete, file=sys.stderr)
        return EXIT_INCOMPLETE
    except FoundError as found:
        print(found, file=sys.stderr)
        return found.exit_code
    except StoppedError as stopped:
        print(stopped, file=sys.stderr)
        return EXIT_STOPPED
    except BrokenPipeError:
        # The reader of our output has gone (`cvft schema | head`); the interpreter would complain on its last flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Builds the parser; every subcommand's help ends with examples to copy."""
    parser = argparse.ArgumentParser(
        prog="cvft",
        description="Fine-tune a video language model, from a recipe to a verified and evaluated checkpoint.",
        epilog=_examples("cvft run recipes/tiny_cpu.yaml", "cvft train --help"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"cvft {__version__}")
    parser.set_defaults(handler=None)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for name in COMMANDS:
        command = importlib.import_module(f"cvft.cli.commands.{name.replace('-', '_')}")
        parser_of_command = commands.add_parser(
            name,
            help=command.SUMMARY,
            description=f"{command.SUMMARY[0].upper()}{command.SUMMARY[1:]}.",
            epilog=_examples(*command.EXAMPLES),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(parser_of_command)
        parser_of_command.set_defaults(handler=command.run)
    return parser


def _examples(*lines: str) -> str:
    return "\n".join(["examples:", *(f"  {line}" for line in lines)])


def _check_command(args: Sequence[str]) -> None:
    if args and not args[0].startswith("-") and args[0] not in COMMANDS:
        known = ", ".join(quote(name) for name in COMMANDS)
        problem = Problem("command", quote(args[0]), f"one of {known}", did_you_mean(args[0], COMMANDS))
        raise CvftError("command line", [problem])


def _unknown_argument(word: str, *, command: str) -> Problem:
    hint = "settings are written `key.path=value`, such as `lora.rank=16`" if word.startswith("-") else ""
    return Problem("argument", quote(word), f"one of those that `cvft {command} --help` shows", hint)


def _print_result(result: object) -> None:
    if isinstance(result, Mapping):
        print(json.dumps(result, indent=2, ensure_ascii=False))
    elif result is not None:
        print(result)
