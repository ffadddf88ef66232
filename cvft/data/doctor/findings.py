"""The kinds of what a check finds, in one table, and one finding of a kind.

An error is what training refuses, a warning what trains but is probably not meant, a note what is worth knowing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Literal

from cvft.data.rows import Row
from cvft.errors import Problem

Severity = Literal["error", "warning", "note"]

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
"""The gravest first."""


@dataclass(frozen=True)
class Kind:
    """A kind of finding.

    Args:
        severity: How grave it is.
        means: What it means for whoever trains on it.
        hint: What to do, where a finding has no hint of its own; may be empty.
        fix: What `cvft check --fix` does with the rows: leaves them out, or brings those of a clip to one side.
    """

    severity: Severity
    means: str
    hint: str = ""
    fix: Literal["", "left out", "one side"] = ""


_OUT: Literal["left out"] = "left out"

KINDS: dict[str, Kind] = {
    "row_refused": Kind("error", "a file or a row that cannot be trained on as it stands", fix=_OUT),
    "clip_refused": Kind("error", "a clip that cannot be decoded", "repair it, or data.on_bad_clip: quarantine", _OUT),
    "row_too_long": Kind("error", "a row that has more tokens than the model takes", fix=_OUT),
    "conflicting_answers": Kind(
        "warning", "the same question about the same clip has different answers", "keep the right one", _OUT
    ),
    "duplicate_row": Kind("warning", "the same row again: it counts twice", "remove all but one", _OUT),
    "dataset_note": Kind(
        "warning", "a dataset by name that is not whole, or a benchmark that is trained on", "see `cvft datasets`"
    ),
    "one_answer": Kind(
        "warning",
        "nearly all rows of a category have one answer: a model learns to give it unseen",
        "add rows with other answers, or remove some of these",
    ),
    "blank_text": Kind("warning", "a word that stands for nothing: it is trained on as text", "remove the row", _OUT),
    "tag_in_answer": Kind(
        "warning", "a tag for a clip, an image or a sound: the model would learn to say it", "remove the tag", _OUT
    ),
    "control_token_text": Kind("warning", "what looks like a control token: it is plain text here", "remove it"),
    "placeholder_text": Kind("warning", "words of a program that made the data", "remove the words, or the row", _OUT),
    "time_beyond_clip": Kind(
        "warning",
        "an answer names a second that the clip does not have",
        "correct the answer, or the clip's path",
        _OUT,
    ),
    "time_not_shown": Kind(
        "warning",
        "an answer names a second that the sampling rule does not show",
        "video.sampling=uniform shows whole clips, at wider steps",
    ),
    "clip_on_both_sides": Kind(
        "warning",
        "a clip that is trained on and evaluated: the numbers flatter the model",
        "move all its rows to one side",
        "one side",
    ),
    "similar_clip_on_both_sides": Kind(
        "warning",
        "a clip that looks like one of the other side, whole or in part: encoded anew, resized or cut",
        "look at both; move all rows of them to one side",
        "one side",
    ),
    "same_clip_two_names": Kind("warning", "files with the same bytes: their rows speak of one clip", "keep one name"),
    "single_frame": Kind("warning", "a clip of one frame: nothing moves in it"),
    "black": Kind("warning", "black pictures where the model looks"),
    "white": Kind("warning", "white pictures where the model looks"),
    "frozen": Kind("warning", "a picture that stands still"),
    "repeated_picture": Kind("warning", "a picture comes again although all moved: a second may be there twice"),
    "tag_taken_out": Kind("note", "a tag for the clip is taken out of a question"),
    "clip_in_two_files": Kind("note", "a clip has rows in more than one file: hold all of them out, or none"),
    "similar_clips": Kind("note", "a clip that looks like one of another file: hold both out, or none", "look at both"),
    "clip_cut": Kind(
        "note", "the sampling rule does not show the end of a clip", "video.sampling=uniform shows whole clips"
    ),
    "frames_repeated": Kind("note", "the sampling rule shows frames of a short clip more than once"),
    "variable_frame_rate": Kind("note", "frames at uneven distances: each is taken by its own time"),
    "turned": Kind("note", "pictures are turned as players turn them"),
    "clip_note": Kind("note", "what else is known of a clip's file"),
}
"""Id -> kind, in the order in which they are shown."""


@dataclass(frozen=True)
class Finding:
    """One thing that was found in one place.

    Args:
        kind: A key of `KINDS`.
        problem: Where, what was found, what would be expected.
        rows: The rows that it is about, of those that can be read.
    """

    kind: str
    problem: Problem
    rows: tuple[Row, ...] = field(default=(), compare=False, repr=False)

    def __post_init__(self) -> None:
        assert self.kind in KINDS, self.kind

    @property
    def severity(self) -> Severity:
        """How grave it is."""
        return KINDS[self.kind].severity

    def to_dict(self) -> dict[str, str]:
        """Returns plain values for JSON; the hint is the kind's where the finding has none."""
        problem = replace(self.problem, hint=self.problem.hint or KINDS[self.kind].hint)
        return {"kind": self.kind, "severity": self.severity, **vars(problem)}


def find(kind: str, where: str, got: str, need: str, *, rows: Iterable[Row]) -> Finding:
    """Returns a finding whose hint is that of its kind."""
    return Finding(kind, Problem(where, got, need), tuple(rows))
