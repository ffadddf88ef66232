"""Errors that a user can act on: `where: got X, need Y`, then one `hint:`.

Every room raises these and only these for a user's mistake; the command line turns them into exit code 2.
A file with several problems reports them all at once: one `CvftError` carries many `Problem`s. Its text shows three of a kind
and the number of the others, so that one fault of a whole file is a few lines to read.
"""

from __future__ import annotations

import difflib
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath

EXIT_USER_ERROR = 2
"""Exit code of every command when the user's input is at fault."""

EXIT_INCOMPLETE = 1
"""Exit code when some of what was asked for could not be done, and the rest was."""

EXIT_STOPPED = 75
"""Exit code of a training that was asked to stop and has saved a checkpoint. Source: EX_TEMPFAIL of sysexits.h, "try again"."""


NUM_SHOWN = 3
"""Problems of one kind that the text of an error shows."""

_PLACE = re.compile(
    r"(?P<file>.+?)(?P<sign>:|: item )(?P<line>\d+)(?P<also>(?:, \d+)*(?: and \d+ more rows?)?)(?P<rest>(?!\d).*)",
    re.DOTALL,
)
"""A place of which a file has many: `FILE:LINE` or `FILE: item N`, more lines, and what follows, such as the column."""

_NAME_OR_NUMBER = re.compile(r"`[^`]*`|\d+")


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong in one place.

    Args:
        where: The place: a key path, `FILE:LINE`, or a file.
        got: What was found there.
        need: What would be accepted.
        hint: One action that repairs it, or an empty string.
    """

    where: str
    got: str
    need: str
    hint: str = ""

    def __str__(self) -> str:
        text = f"{self.where}: got {self.got}, need {self.need}"
        return f"{text}\n  hint: {self.hint}" if self.hint else text


class ValueProblem(ValueError):
    """A value that cannot be used, raised where nobody knows yet which line or column it came from.

    Args:
        got: What was found.
        need: What would be accepted.
        hint: One action that repairs it.
        line: Line within the text that was parsed, where it is known.
    """

    def __init__(self, got: str, need: str, hint: str = "", *, line: int | None = None) -> None:
        super().__init__(got)
        self.got, self.need, self.hint, self.line = got, need, hint, line

    def at(self, where: str) -> Problem:
        """Returns the problem, now that its place is known."""
        return Problem(where, self.got, self.need, self.hint)


class CvftError(ValueError):
    """A user's mistake, with every problem found.

    Args:
        subject: What was read, for the headline: "recipe recipes/mine.yaml".
        problems: At least one problem.
    """

    def __init__(self, subject: str, problems: Iterable[Problem]) -> None:
        self.subject = subject
        self.problems = tuple(problems)
        assert self.problems, "an error needs a problem"
        self._text = self._write()
        super().__init__(self._text)

    def __reduce__(self) -> tuple[type[CvftError], tuple[str, tuple[Problem, ...]]]:
        """Lets the error cross from a data loader worker to the process that shows it."""
        return type(self), (self.subject, self.problems)

    def __str__(self) -> str:
        return self._text

    def _write(self) -> str:
        count = len(self.problems)
        head = f"{self.subject} has {count} problem{'s' if count > 1 else ''}"
        shown = [f"  {line}" for text, _ in show_kinds(self.problems) for line in text.split("\n")]
        return "\n".join([head, *shown])


class RecipeError(CvftError):
    """A recipe cannot be used as it stands."""


class DataError(CvftError):
    """A JSON/JSONL file or a row of it cannot be used."""


class ClipError(CvftError):
    """One video file cannot be decoded into the frames that were asked for."""


class FeatureError(CvftError):
    """A store of vision features or pixels does not hold, or cannot take, what is asked of it."""


class ModelError(CvftError):
    """A model folder, adapter or tokenizer does not fit."""


class ContractError(CvftError):
    """An adapter or merged folder would be used with other preprocessing than it was trained with."""


class VerifyError(CvftError):
    """A merged model does not answer like its adapter."""


class RunError(CvftError):
    """A run folder or a worker process is not in the state that is needed."""


class IncompleteError(Exception):
    """Something was done, but not all of it; nobody's mistake in the whole.

    Args:
        message: What was done, what was not, and why.
    """


class FoundError(Exception):
    """A check found something to do; what it is has been shown.

    Args:
        message: How much of what.
        exit_code: The exit code of the command.
    """

    def __init__(self, message: str, *, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class StoppedError(Exception):
    """A training was asked to stop and can be continued; no mistake of anybody's.

    Args:
        message: Where it stopped and how it continues.
    """


def quote(value: object, *, most: int = 80) -> str:
    """Shows a value the way every message does: in backticks, at most `most` characters, all of them visible; paths in full."""
    text = f"{value}"
    if len(text) > most and not isinstance(value, PurePath):  # of a path, the end says which it is
        text = f"{text[: most - 3]}..."
    return f"`{visible(text)}`"


def visible(text: str) -> str:
    """Returns text with what a terminal would not show, or would obey, written out: line ends, colours, half characters."""
    return text if text.isprintable() else "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def nearest(name: str, known: Iterable[str], *, count: int = 3, likeness: float = 0.5) -> list[str]:
    """Returns up to `count` names of `known` that look like `name`, closest first; from 0 to 1, 1 are equal ones.

    A name of more than 200 characters looks like none: the comparison takes as long as both are, multiplied.
    """
    return difflib.get_close_matches(name, list(known), n=count, cutoff=likeness) if len(name) <= 200 else []


def did_you_mean(name: str, known: Iterable[str], *, likeness: float = 0.5) -> str:
    """Returns a hint that names the nearest known names, or an empty string when none is near."""
    names = nearest(name, known, likeness=likeness)
    return f"did you mean {' or '.join(quote(n) for n in names)}?" if names else ""


def show_kinds(problems: Sequence[Problem]) -> Iterator[tuple[str, int]]:
    """Writes problems in their order; of more than `NUM_SHOWN` of a kind, the first ones and how many there are beside them.

    Args:
        problems: The problems.

    Yields:
        A text, and how many problems it is about.
    """
    kinds: dict[object, list[Problem]] = defaultdict(list)
    keys = [_kind_of(problem) or number for number, problem in enumerate(problems)]
    for key, problem in zip(keys, problems, strict=True):
        kinds[key].append(problem)
    for key, problem in zip(keys, problems, strict=True):
        kind = kinds[key]
        if len(kind) <= NUM_SHOWN:
            yield str(problem), 1
        elif problem is kind[0]:
            yield _show_many(kind), len(kind)


def _kind_of(problem: Problem) -> tuple[str, ...] | None:
    """What problems of one kind share: file and column, and the message apart from names and numbers. None stands alone."""
    place = _PLACE.fullmatch(problem.where)
    if place is None:
        return None
    column = re.match(r" `[^`]*`", place["rest"])
    message = (_NAME_OR_NUMBER.sub("`", text) for text in (problem.got, problem.need))
    return place["file"], place["sign"], column[0] if column else "", *message


def _show_many(kind: Sequence[Problem]) -> str:
    num_more = len(kind) - NUM_SHOWN
    places = [place for problem in kind if (place := _PLACE.fullmatch(problem.where))]
    first = places[0]
    whole = {(place["also"], place["rest"], *_message(problem)) for place, problem in zip(places, kind, strict=True)}
    if len(whole) == 1 and not first["also"]:
        lines = ", ".join(place["line"] for place in places[:NUM_SHOWN])
        where = f"{first['file']}{first['sign']}{lines} and {num_more} more{first['rest']}"
        return str(replace(kind[0], where=where))
    shown = kind[:NUM_SHOWN]
    hints = {problem.hint for problem in shown}
    texts = [str(replace(problem, hint="") if len(hints) == 1 else problem) for problem in shown]
    texts.append(f"and {num_more} more like these, up to {first['file']}{first['sign']}{places[-1]['line']}")
    if len(hints) == 1 and kind[0].hint:
        texts.append(f"  hint: {kind[0].hint}")
    return "\n".join(texts)


def _message(problem: Problem) -> tuple[str, str, str]:
    return problem.got, problem.need, problem.hint
