"""Errors that a user can act on: `where: got X, need Y`, then one `hint:`.

Every room raises these and only these for a user's mistake; the command line turns them into exit code 2.
A file with several problems reports them all at once: one `CvftError` carries many `Problem`s.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

EXIT_USER_ERROR = 2
"""Exit code of every command when the user's input is at fault."""

EXIT_STOPPED = 75
"""Exit code of a training that was asked to stop and has saved a checkpoint. Source: EX_TEMPFAIL of sysexits.h, "try again"."""


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
        super().__init__(str(self))

    def __reduce__(self) -> tuple[type[CvftError], tuple[str, tuple[Problem, ...]]]:
        """Lets the error cross from a data loader worker to the process that shows it."""
        return type(self), (self.subject, self.problems)

    def __str__(self) -> str:
        count = len(self.problems)
        head = f"{self.subject} has {count} problem{'s' if count > 1 else ''}"
        lines = [head]
        for problem in self.problems:
            lines += [f"  {line}" for line in str(problem).splitlines()]
        return "\n".join(lines)


class RecipeError(CvftError):
    """A recipe cannot be used as it stands."""


class DataError(CvftError):
    """A JSON/JSONL file or a row of it cannot be used."""


class ClipError(CvftError):
    """One video file cannot be decoded into the frames that were asked for."""


class FeatureError(CvftError):
    """A store of vision features does not hold, or cannot take, what is asked of it."""


class ModelError(CvftError):
    """A model folder, adapter or tokenizer does not fit."""


class ContractError(CvftError):
    """An adapter or merged folder would be used with other preprocessing than it was trained with."""


class VerifyError(CvftError):
    """A merged model does not answer like its adapter."""


class RunError(CvftError):
    """A run folder or a worker process is not in the state that is needed."""


class StoppedError(Exception):
    """A training was asked to stop and can be continued; no mistake of anybody's.

    Args:
        message: Where it stopped and how it continues.
    """


def quote(value: object) -> str:
    """Shows a value the way every message does: literals in backticks, at most 80 characters."""
    text = f"{value}"
    if len(text) > 80:
        text = f"{text[:77]}..."
    return f"`{text}`"


def nearest(name: str, known: Iterable[str], *, count: int = 3, likeness: float = 0.5) -> list[str]:
    """Returns up to `count` names of `known` that look like `name`, closest first; from 0 to 1, 1 are equal ones.

    A name of more than 200 characters looks like none: the comparison takes as long as both are, multiplied.
    """
    return difflib.get_close_matches(name, list(known), n=count, cutoff=likeness) if len(name) <= 200 else []


def did_you_mean(name: str, known: Iterable[str], *, likeness: float = 0.5) -> str:
    """Returns a hint that names the nearest known names, or an empty string when none is near."""
    names = nearest(name, known, likeness=likeness)
    return f"did you mean {' or '.join(quote(n) for n in names)}?" if names else ""
