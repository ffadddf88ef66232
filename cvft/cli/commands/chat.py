"""`cvft chat`: several turns about a clip, in a terminal or from a pipe.

Answers, and what a command asks to see, go to stdout, with an empty line behind each; everything else goes to stderr.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import shlex
import sys
from collections.abc import Callable, Generator
from contextlib import closing, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from cvft.cli.commands.asked import add_model, add_system, check_model, how_to_ask
from cvft.cli.commands.fetched import add_urls, open_cache
from cvft.cli.interrupts import raised_only
from cvft.errors import CvftError, IncompleteError, Problem, did_you_mean, quote

if TYPE_CHECKING:
    from cvft.predict.chat import Chat

SUMMARY = "talk with a model about a clip, turn by turn"
EXAMPLES = (
    "cvft chat --model runs/tiny_cpu clip.mp4",
    "cvft chat --model tiny",
)

Returned = TypeVar("Returned")

PROMPT = "> "

_SECOND = re.compile(r"\d+(\.\d*)?|\.\d+", re.ASCII)

HELP = """\
/video CLIP  talk about another clip, a file or a URL, from the beginning
/video FOLDER SECOND SECOND ...   about the pictures of a folder, in the order of their numbers, taken at these seconds
/frames      which frames of the clip the model is shown, with their seconds
/clear       forget the turns, and keep the clip
/save FILE   add the last answer to a JSONL file of rows to train on, with its question and the turns before it
/help        show this
/quit        end the chat, as Ctrl-D does
Everything else is a question. Ctrl-C stops an answer; at the prompt, pressed twice, it ends the chat."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Says what can be given."""
    parser.add_argument(
        "clip", metavar="CLIP", nargs="?", help="the clip to begin with, a file or a URL; `/video` shows another"
    )
    add_system(parser)
    add_model(parser)
    add_urls(parser)


def run(options: argparse.Namespace) -> None:
    """Runs the command.

    Raises:
        IncompleteError: when lines of a pipe could not be carried out.
    """
    if problems := check_model(options):
        raise CvftError("command line", problems)
    from cvft.predict.chat import open_chat

    is_terminal = sys.stdin is not None and sys.stdin.isatty()
    with closing(
        open_chat(
            options.model,
            video=options.clip,
            system=options.system,
            cache=open_cache(options),
            **how_to_ask(options),
        )
    ) as chat:
        if isinstance(sys.stdin, io.TextIOWrapper):
            sys.stdin.reconfigure(errors="surrogateescape")  # a line that is no text must not end the chat
        # a script is stopped as any other command is
        with raised_only() if is_terminal else nullcontext():
            num_lines, num_failed = _talk(chat, is_terminal=is_terminal)
    if num_failed and not is_terminal:
        raise IncompleteError(f"{num_failed} of {num_lines} lines could not be carried out")


def _talk(chat: Chat, *, is_terminal: bool) -> tuple[int, int]:
    """Carries out line after line; returns how many there were, and how many could not be."""
    if is_terminal:
        with suppress(ImportError):  # editing of lines, where Python has it
            import readline  # noqa: F401
        _say("/help shows what can be done; Ctrl-D ends the chat")
    num_lines = num_failed = num_interrupts = 0
    while True:
        try:
            line = _read_line(is_terminal=is_terminal)
        except KeyboardInterrupt:
            num_interrupts += 1
            if not is_terminal or num_interrupts > 1:
                raise
            _say("\nCtrl-C again ends the chat, as Ctrl-D does")
            continue
        num_interrupts = 0
        if line is None or line.rstrip() == "/quit":
            return num_lines, num_failed
        if not line.strip():
            continue
        num_lines += 1
        try:
            _carry_out(chat, line)
        except CvftError as error:
            num_failed += 1
            _say("\n".join(str(problem) for problem in error.problems))
        except KeyboardInterrupt:
            if not is_terminal:
                raise
            _say("stopped   what was stopped is no part of the conversation")


def _read_line(*, is_terminal: bool) -> str | None:
    """Returns a line without its end, or None when there are no more."""
    if is_terminal:
        has_screen = sys.stdout.isatty()
        if not has_screen:  # what is asked is no part of the answers
            print(PROMPT, end="", file=sys.stderr, flush=True)
        try:
            return input(PROMPT if has_screen else "")
        except EOFError:
            _say("")
            return None
    line = "" if sys.stdin is None else sys.stdin.readline()
    return line.removesuffix("\n").removesuffix("\r") if line else None


def _carry_out(chat: Chat, line: str) -> None:
    try:
        line.encode()
    except UnicodeEncodeError as error:
        raise CvftError("the line", [Problem("the line", "bytes that are no text", "UTF-8 text")]) from error
    if not line.startswith("/"):
        _answer(chat, line)
        return
    name, _, given = (part.strip() for part in line.partition(" "))
    takes_file: dict[str, Callable[[Chat, str], None]] = {"/video": _show, "/save": _save}
    alone: dict[str, Callable[[Chat], None]] = {"/frames": _print_frames, "/clear": _clear, "/help": _print_help}
    if name in takes_file:
        if not given:
            raise CvftError("the line", [Problem(name, "nothing", "a file", f"write `{name} FILE`")])
        takes_file[name](chat, given)
    elif name in alone and not given:
        alone[name](chat)
    elif name in alone or name == "/quit":
        raise CvftError("the line", [Problem(name, quote(given), "nothing behind it")])
    else:
        known = [*takes_file, *alone, "/quit"]
        hint = did_you_mean(name, known) or "a question that begins with `/` has a blank before it"
        if os.path.isfile(_path(line.strip())):
            hint = f"write `/video {line.strip()}` to talk about that file"
        raise CvftError("the line", [Problem("the command", quote(name), f"one of {', '.join(known)}", hint)])


def _answer(chat: Chat, query: str) -> None:
    with closing(chat.ask(query)) as pieces:
        try:
            answer = _print_pieces(pieces)
        except KeyboardInterrupt:
            print(" [stopped]\n", flush=True)
            raise
    print("\n", flush=True)
    if answer.is_cut:
        _say("note      the answer was cut: its tokens were used up; --max-new-tokens says how many it may have")
    if not answer.text:
        _say("note      the answer is empty")


def _print_pieces(pieces: Generator[str, None, Returned]) -> Returned:
    while True:
        try:
            piece = next(pieces)
        except StopIteration as end:
            returned: Returned = end.value
            return returned
        print(piece, end="", flush=True)


def _show(chat: Chat, given: str) -> None:
    path, (folder, *seconds) = _path(given), _words(given)
    if seconds and not os.path.lexists(path) and all(map(_SECOND.fullmatch, seconds)):
        chat.show(os.path.expanduser(folder), seconds=[float(second) for second in seconds])
    else:
        chat.show(path)
    _say(f"clip      {quote(chat.clip_name, most=400)}: a new conversation")


def _save(chat: Chat, given: str) -> None:
    path = Path(_path(given))
    chat.save(path)
    _say(f"saved     a row at the end of {quote(path)}")


def _print_frames(chat: Chat) -> None:
    print(chat.frames(), end="\n\n", flush=True)


def _clear(chat: Chat) -> None:
    chat.clear()
    _say("cleared   the turns are forgotten")


def _print_help(chat: Chat) -> None:
    print(HELP, end="\n\n", flush=True)


def _path(given: str) -> str:
    """Returns a file's name as it was typed, or as a terminal writes one that is dropped on it: quoted."""
    if not os.path.lexists(given):
        words = _words(given)
        if len(words) == 1:
            given = words[0]
    return os.path.expanduser(given)


def _words(given: str) -> list[str]:
    with suppress(ValueError):  # a quote that is not closed
        return shlex.split(given)
    return [given]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
