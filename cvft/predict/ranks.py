"""Rows answered by several processes, each with the whole model on a GPU of its own, or on CPU threads of its own.

rows, model -> shares of whole batches -> one process each, `cvft.predict.rank_main` -> batches as they come, for one writer

No rank has to hear of another, so these are plain children of ours and not torchrun's: they start at once, need no port, and
what ends them is ours to say. One process writes what they answer: it is in the same file, continued in the same way, whatever
their number was.
"""

from __future__ import annotations

import json
import os
import pickle
import selectors
import signal
import subprocess
import sys
import tempfile
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import IO, TYPE_CHECKING, Any

from cvft.data.records import ClipRecord
from cvft.data.rows import Row
from cvft.data.video.spec import ClipRef, from_text
from cvft.errors import CvftError, Problem, RunError
from cvft.families.answering import Answer
from cvft.imports import python_environment
from cvft.plan.job import Job
from cvft.plan.machine import device_of_rank
from cvft.predict.batches import AnsweredBatch, share_out
from cvft.predict.placement import MEMORY_OF_GPUS
from cvft.predict.trained import FoundModel
from cvft.processes import LAUNCHER_VARIABLE, NUM_LOG_LINES_SHOWN, describe_end, die_with_parent, explain_end

if TYPE_CHECKING:
    from cvft.predict.open import Variant

VISIBLE = "CUDA_VISIBLE_DEVICES"

HINT_SPREAD = "each rank needs room for the whole model; without --num-gpus one process spreads it over all GPUs"

_MOST_READ_BYTES = 1 << 16


@dataclass(frozen=True)
class RunModel:
    """One of a run's models, to be loaded by a rank.

    Args:
        job: The job of the trained run.
        variant: `base`, `adapter` or `merged`.
        clips: As of `Predictors.get`.
    """

    job: Job
    variant: Variant
    clips: Mapping[ClipRef, ClipRecord]


@dataclass(frozen=True)
class RankTask:
    """What a rank is to do.

    Args:
        model: What answers.
        rows: All rows, of which its share is a part.
        batch_rows: Rows answered at a time.
        max_new_tokens: Longest answer in tokens; None takes what a prompt leaves.
        done: Numbers of the rows that are not its own.
    """

    model: RunModel | FoundModel
    rows: Sequence[Row]
    batch_rows: int
    max_new_tokens: int | None
    done: frozenset[int]


@dataclass
class _Rank:
    """A running rank.

    Args:
        name: What messages call it.
        process: Its process.
        log: What it prints, for the case that it fails.
    """

    name: str
    process: subprocess.Popen[bytes]
    log: IO[bytes]
    unread: bytearray = field(default_factory=bytearray)
    cut: dict[ClipRef, str] | None = None
    """What was not shown of its clips; it is the last that a rank says."""

    @property
    def answers(self) -> IO[bytes]:
        """What it says, a JSON object per line."""
        assert self.process.stdout is not None
        return self.process.stdout


class AnsweringRanks:
    """Ranks that answer rows together, as `Predictor.answer_batches` does alone.

    Args:
        model: What answers.
        num: Most ranks; there are no more than batches.
        device: `cuda`, where each has a GPU of its own, or `cpu`.
    """

    def __init__(self, model: RunModel | FoundModel, *, num: int, device: str) -> None:
        self.cut: dict[ClipRef, str] = {}
        self._model = model
        self._num = num
        self._device = device

    def answer_batches(
        self, rows: Sequence[Row], *, batch_rows: int, max_new_tokens: int | None, done: Collection[int] = ()
    ) -> Generator[AnsweredBatch, None, None]:
        """Answers rows greedily, batch by batch, in the order in which they are done.

        Args:
            rows: As of `Predictor.answer_batches`.
            batch_rows: As there.
            max_new_tokens: As there.
            done: As there.

        Yields:
            The outcome of each batch. No process is left when the generator is closed.

        Raises:
            CvftError: what a rank refuses.
            RunError: when a rank ends before its share is answered; the others are ended then.
        """
        shares = share_out(rows, batch_rows=batch_rows, num_shares=self._num, done=done)
        with ExitStack() as stack:
            ranks = [
                stack.enter_context(_started(number, of=len(shares), device=self._device))
                for number in range(len(shares))
            ]
            for rank, share in zip(ranks, shares, strict=True):
                own = {number for batch in share for number in batch}
                others = frozenset(range(len(rows))) - own
                _send(rank, RankTask(self._model, rows, batch_rows, max_new_tokens, others))
            yield from _collect(ranks)
            for rank in ranks:
                self.cut |= rank.cut or {}


@contextmanager
def _started(number: int, *, of: int, device: str) -> Iterator[_Rank]:
    """Starts a rank; it is gone afterwards, and its decoder with it."""
    variables = {**os.environ, LAUNCHER_VARIABLE: str(os.getpid())}
    name = f"rank {number} of {of}"
    if device == "cuda":
        variables[VISIBLE] = device_of_rank(number, os.environ.get(VISIBLE))
        name += f" (GPU {variables[VISIBLE]})"
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "cvft.predict.rank_main"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=python_environment(variables),
            start_new_session=True,  # Ctrl-C is ours to answer, and its decoder ends with it
            preexec_fn=die_with_parent,
        )
        try:
            yield _Rank(name, process, log)
        finally:
            # at once and for good: it writes no file
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with suppress(BrokenPipeError):
                    assert pipe is not None
                    pipe.close()


def _send(rank: _Rank, task: RankTask) -> None:
    stdin = rank.process.stdin
    assert stdin is not None
    with suppress(BrokenPipeError):  # it has ended: whoever reads its answers finds out why
        pickle.dump(task, stdin)
        stdin.close()


def _collect(ranks: Sequence[_Rank]) -> Iterator[AnsweredBatch]:
    with selectors.DefaultSelector() as selector:
        for rank in ranks:
            selector.register(rank.answers, selectors.EVENT_READ, rank)
        while selector.get_map():
            for key, _ in selector.select():
                rank = key.data
                piece = os.read(key.fd, _MOST_READ_BYTES)
                if not piece:
                    selector.unregister(rank.answers)
                    if rank.cut is None:
                        raise RunError("the ranks that answer", [_why_it_ended(rank)])
                    continue
                rank.unread += piece
                *lines, rank.unread = rank.unread.split(b"\n")
                for line in lines:
                    yield from _understand(json.loads(line), rank)


def _understand(said: Mapping[str, Any], rank: _Rank) -> Iterator[AnsweredBatch]:
    if "refused" in said:
        raise name_rank(error_from(said["refused"]), rank.name)
    if "cut" in said:
        rank.cut = {from_text(clip): sentence for clip, sentence in said["cut"]}
        return
    answers = {number: Answer(**answer) for number, answer in said["answers"]}
    yield AnsweredBatch(answers, {number: error_from(error) for number, error in said["bad"]})


def name_rank(error: CvftError, name: str) -> CvftError:
    """Returns what a rank refuses with the rank's name, and with what helps where there are several.

    Args:
        error: What it refuses.
        name: Its name.
    """
    problems = [replace(each, hint=HINT_SPREAD) if each.where == MEMORY_OF_GPUS else each for each in error.problems]
    return type(error)(f"{error.subject}, {name},", problems)


def _why_it_ended(rank: _Rank) -> Problem:
    code = rank.process.wait()
    rank.log.seek(0)
    lines = rank.log.read().decode("utf-8", errors="replace").strip().splitlines()
    hint = explain_end(code, lines[-NUM_LOG_LINES_SHOWN:] or ["nothing"])
    return Problem(rank.name, f"{describe_end(code)} before its rows were answered", "an answer to each of them", hint)


_KINDS = {CvftError.__name__: CvftError} | {kind.__name__: kind for kind in CvftError.__subclasses__()}
"""Errors by the names under which they come from a rank: JSON, because a rank has read clips that anyone may have made."""


def error_to(error: CvftError) -> dict[str, Any]:
    """Writes an error for the process that shows it."""
    problems = [vars(problem) for problem in error.problems]
    return {"kind": type(error).__name__, "subject": error.subject, "problems": problems}


def error_from(said: Mapping[str, Any]) -> CvftError:
    """Reads what `error_to` wrote."""
    return _KINDS[said["kind"]](said["subject"], [Problem(**problem) for problem in said["problems"]])
