"""Answers to many rows, kept as they come: a command that was killed goes on where it was, and no row is answered twice.

rows -> batches -> a line each in NAME.partial.jsonl, under a line that says what they were answered with -> all answers

The partial file is the caller's to turn into a result and to remove. One process writes it at a time.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from tqdm import tqdm

from cvft.data.records import look_at
from cvft.data.rows import Row
from cvft.data.video.spec import ClipRef, name_of
from cvft.errors import CvftError, DataError, Problem, RunError, quote
from cvft.families.answering import Answer
from cvft.jsonl import read_jsonl, to_line
from cvft.predict.batches import AnsweredBatch

PARTIAL = ".partial.jsonl"
"""Ending of the file of a result that is not whole."""


class Answering(Protocol):
    """What answers rows: a model in this process (`Predictor`), or ranks (`AnsweringRanks`)."""

    @property
    def cut(self) -> Mapping[ClipRef, str]:
        """What was not shown of clips, in a sentence each, where it is known."""

    def answer_batches(
        self, rows: Sequence[Row], *, batch_rows: int, max_new_tokens: int | None, done: Collection[int] = ()
    ) -> Generator[AnsweredBatch, None, None]:
        """Answers rows, batch by batch; see `Predictor.answer_batches`."""


@dataclass(frozen=True)
class Answered:
    """What came of rows, by their numbers from 0.

    Args:
        answers: The answers, those of an earlier start among them.
        bad: Why the others could not be answered.
        cut: What was not shown of clips that are too long, a sentence each.
    """

    answers: Mapping[int, Answer]
    bad: Mapping[int, CvftError]
    cut: Sequence[str]


class AnswerFile:
    """Answers that were kept, and room for more; see `open_answers`."""

    def __init__(self, path: Path, file: IO[bytes], answers: dict[int, Answer]) -> None:
        self.path = path
        self.answers = answers
        self._file = file

    def add(self, answers: Mapping[int, Answer], rows: Sequence[Row]) -> None:
        """Keeps the answers of a batch: they are on the disk when this returns."""
        if not answers:
            return
        assert self.answers.keys().isdisjoint(answers), "no row is answered twice"
        line = {
            "rows": list(answers),
            "clips": [look_at(rows[number]) for number in answers],
            "answers": [asdict(answer) for answer in answers.values()],
        }
        self._file.write(to_line(line).encode())
        self._file.flush()
        os.fsync(self._file.fileno())
        self.answers.update(answers)


def partial_file(result: Path) -> Path:
    """Returns where the answers for a result are kept until it is whole."""
    stem = result.name.removesuffix(".jsonl").removesuffix(".json")
    return result.with_name(f"{stem}{PARTIAL}")


@contextmanager
def open_answers(
    path: Path, rows: Sequence[Row], *, settings: Mapping[str, Any], on_other: Callable[[str], object]
) -> Iterator[AnswerFile]:
    """Opens the file of answers that are not complete, made when it is absent.

    Args:
        path: The file.
        rows: The rows that are asked.
        settings: What decides the answers: model, rows, limits.
        on_other: Called with what differs when the file was written with other settings; unless that raises, it starts anew.

    Raises:
        RunError: when another process answers into it.
        DataError: when it is not a file of answers.
        OSError: when it cannot be written.
    """
    made = [folder for folder in path.parents if not folder.is_dir()]
    path.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        file = stack.enter_context(open(path, "a+b"))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            got, hint = "another process that answers into it", "wait for it, or stop it"
            raise RunError("the answers", [Problem(str(path), got, "one at a time", hint)]) from None
        lines = read_jsonl(path, may_be_torn=True)
        stated = json.loads(json.dumps(dict(settings)))
        begun = lines[0].get("settings") if lines else None
        if lines and not isinstance(begun, dict):
            problem = Problem(str(path), "another file", "answers that cvft has begun", "give another name")
            raise DataError("the answers", [problem])
        answers: dict[int, Answer] = {}
        if isinstance(begun, dict):
            if differing := [name for name in {**begun, **stated} if begun.get(name) != stated.get(name)]:
                on_other(", ".join(map(quote, differing)))
                begun = None
            else:
                answers = _read_answers(lines[1:], rows)
        if begun is None:
            file.truncate(0)
            file.write(to_line({"settings": stated}).encode())
            file.flush()
        else:
            file.truncate(path.read_bytes().rfind(b"\n") + 1)  # what was being written when we were killed
        kept = AnswerFile(path, file, answers)
        try:
            yield kept
        finally:
            if not kept.answers:  # nothing that could go on
                path.unlink(missing_ok=True)
                with suppress(OSError):
                    for folder in made:
                        folder.rmdir()


def answer_rows(
    rows: Sequence[Row],
    kept: AnswerFile,
    *,
    answering: Callable[[], Answering],
    batch_rows: int,
    max_new_tokens: int | None,
    description: str,
) -> Answered:
    """Answers the rows that have no answer yet, and keeps each batch as it comes.

    Args:
        rows: The rows.
        kept: Their answers so far.
        answering: Gives what answers; not called when all is answered.
        batch_rows: Rows answered at a time.
        max_new_tokens: Longest answer in tokens; None takes what a prompt leaves.
        description: What the progress bar says.
    """
    bad: dict[int, CvftError] = {}
    cut: list[str] = []
    if len(kept.answers) < len(rows):
        model = answering()
        batches = model.answer_batches(
            rows, batch_rows=batch_rows, max_new_tokens=max_new_tokens, done=set(kept.answers)
        )
        bar = tqdm(
            total=len(rows),
            initial=len(kept.answers),
            desc=description,
            unit="row",
            file=sys.stderr,
            dynamic_ncols=True,
        )
        with bar, closing(batches):
            for batch in batches:
                kept.add(batch.answers, rows)
                bad |= batch.bad
                bar.update(len(batch.answers) + len(batch.bad))
        cut = [f"{name_of(clip)}: {note}" for clip, note in model.cut.items()]
    return Answered(kept.answers, bad, cut)


def locate_problems(bad: Mapping[int, CvftError], rows: Sequence[Row]) -> list[Problem]:
    """Returns what is wrong with rows, each problem with its row's place."""
    problems = []
    for number, error in sorted(bad.items()):
        for each in error.problems:
            where = (
                each.where if each.where.startswith(rows[number].location) else f"{rows[number].location}: {each.where}"
            )
            problems.append(Problem(where, each.got, each.need, each.hint))
    return problems


def _read_answers(lines: Sequence[Mapping[str, Any]], rows: Sequence[Row]) -> dict[int, Answer]:
    """Reads the batches whose clips are still those that were answered about."""
    answers: dict[int, Answer] = {}
    for line in lines:
        seen = [tuple(looks) if looks is not None else None for looks in line["clips"]]
        if seen == [look_at(rows[number]) for number in line["rows"]]:
            answers |= {number: Answer(**each) for number, each in zip(line["rows"], line["answers"], strict=True)}
    return answers
