"""The run folder: where everything of a run lies, and which recipe it belongs to.

runs/<name>/  recipe.yaml  plan.json  manifest.json  data/  train/  adapter/  merged/  eval/  report.html

A folder belongs to one recipe. The same recipe continues in it; another one is refused, never mixed in.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import ConfigDict, TypeAdapter

from cvft.errors import CvftError, Problem, RunError, quote
from cvft.files import LockHeldError, is_temporary, lock, write_whole
from cvft.json_files import OBJECT, JsonError, check_object, read_as, read_object
from cvft.recipe import (
    LoadedRecipe,
    differing_settings,
    dump_recipe,
    load_recipe,
    show_value,
    weights_fingerprint,
    with_absolute_output,
)

T = TypeVar("T")

PROGRESS_FILE = "progress.jsonl"
"""Under `train/`: the worker's steps and losses, one JSON object per line, for the launcher's progress bar."""

START_HEADLINE = "=== cvft: a start"
"""Line in every log where a start of the training begins; logs of earlier starts stay above it."""

ERROR_HEADLINE = "=== cvft: an error"
"""Line in a worker's log before the text of a `CvftError`, which is all that the user needs to see of it."""


LOCK_FILE = ".lock"
"""Held by the one process that trains in the folder; the system lets go of it when that process dies."""

HINT_OTHER_NAME = "give this run a name of its own (name=...)"


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run.

    Args:
        path: The run's folder, absolute.
        checkpoint: Step of the checkpoint that is asked for in place of the trained adapter; None for that one.
    """

    path: Path
    checkpoint: int | None = None

    @property
    def recipe_file(self) -> Path:
        """The resolved recipe, every setting stated."""
        return self.path / "recipe.yaml"

    @property
    def plan_file(self) -> Path:
        """What the worker carries out."""
        return self.path / "plan.json"

    @property
    def manifest_file(self) -> Path:
        """Versions, hashes and device of the run."""
        return self.path / "manifest.json"

    @property
    def data(self) -> Path:
        """The rows that really train and evaluate."""
        return self.path / "data"

    @property
    def train_rows(self) -> Path:
        """Rows to train on."""
        return self.data / "train.jsonl"

    @property
    def val_rows(self) -> Path:
        """Rows held out; absent when there are none."""
        return self.data / "val.jsonl"

    @property
    def quarantine_file(self) -> Path:
        """Rows that were set aside because of their clip; absent when there are none."""
        return self.path / "quarantine.jsonl"

    @property
    def clip_records(self) -> Path:
        """Hash and frame seconds of each clip."""
        return self.data / "clips.json"

    @property
    def row_shapes(self) -> Path:
        """Lengths and clips of the rows, as the sampler needs them."""
        return self.data / "row_shapes.json"

    @property
    def health_file(self) -> Path:
        """What was odd about rows and clips when the training began."""
        return self.data / "health.json"

    @property
    def model_view(self) -> Path:
        """Clean view of the base model's folder."""
        return self.path / "model_view"

    @property
    def train(self) -> Path:
        """ms-swift's output: logging.jsonl, checkpoints, TensorBoard."""
        return self.path / "train"

    @property
    def progress_file(self) -> Path:
        """The worker's steps and losses, of its newest start."""
        return self.train / PROGRESS_FILE

    @property
    def earlier_progress_file(self) -> Path:
        """The same of the starts before; absent when there was one only."""
        return self.train / "progress-earlier.jsonl"

    @property
    def notes_file(self) -> Path:
        """What speaks against the adapter in the course of its training: a JSON list of sentences, mostly empty."""
        return self.train / "notes.json"

    @property
    def chosen_file(self) -> Path:
        """Which checkpoint the adapter is; absent in runs of versions that took the last one."""
        return self.train / "chosen.json"

    @property
    def answers_file(self) -> Path:
        """Val rows answered while it trained, one line per answer and measurement; absent where none were asked for."""
        return self.train / "answers.jsonl"

    def tracker_log(self, name: str) -> Path:
        """What the process says that sends to a tracker."""
        return self.train / "logs" / f"{name}.log"

    def worker_log(self, node_rank: int) -> Path:
        """What the worker of a node says; with several ranks, what their launcher says."""
        return self.train / ("worker.log" if node_rank == 0 else f"worker-node-{node_rank}.log")

    def rank_log(self, rank: int) -> Path:
        """What one of several ranks says."""
        return self.train / "logs" / f"rank-{rank}.log"

    @property
    def adapter(self) -> Path:
        """The trained adapter with its contract."""
        return self.path / f"adapter{self._of_checkpoint}"

    @property
    def start(self) -> Path:
        """Copy of the adapter that the training started from; absent when it started from a fresh one."""
        return self.path / "start"

    @property
    def merged(self) -> Path:
        """Base and adapter as one model folder."""
        return self.path / f"merged{self._of_checkpoint}"

    @property
    def eval(self) -> Path:
        """Predictions and metrics."""
        return self.path / "eval"

    def evaluation(self, name: str) -> Path:
        """Predictions and metrics of one of the run's models: `base`, `adapter` or `merged` for the run's own settings, with
        a digest behind for others.
        """
        return self.eval / name

    @property
    def _of_checkpoint(self) -> str:
        return "" if self.checkpoint is None else f"-checkpoint-{self.checkpoint}"

    @property
    def report(self) -> Path:
        """The page for people."""
        return self.path / "report.html"


METRICS_FILE = "metrics.json"
PREDICTIONS_FILE = "predictions.jsonl"
"""In the folder of an evaluation."""


_NOTES = TypeAdapter(list[str])
_METRICS = {"settings": OBJECT, "metrics": OBJECT}


def read_notes(folder: RunFolder) -> list[str]:
    """Reads what speaks against a run's adapter in the course of its training; mostly nothing.

    Raises:
        RunError: when the file is not what a training wrote.
    """
    path = folder.notes_file
    if not path.is_file():
        return []
    need, hint = "a list of sentences, as the training wrote it", f"bring {path.name} back from a copy of the folder"
    return read_as(path, _NOTES, error=RunError, subject=f"run folder {folder.path}", need=need, hint=hint)


@dataclass(frozen=True)
class Chosen:
    """Which checkpoint a run's adapter is, and why: what `export.checkpoint` has chosen.

    Args:
        step: Step of the checkpoint.
        asked: What was asked for: `best`, `last` or the step.
        by: What makes a checkpoint the best one.
        value: What was measured of that at the step, or None.
        last_step: Step of the last checkpoint.
        best_step: Step of the best checkpoint, or None where nothing was measured.
        num_steps: Steps that were planned.
        ended_early: Why the training ended before, in a sentence; empty when it did not.
    """

    step: int
    asked: int | Literal["best", "last"]
    by: str
    value: float | None
    last_step: int
    best_step: int | None
    num_steps: int
    ended_early: str = ""
    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")

    def to_json(self) -> str:
        """Returns the text of the file."""
        return json.dumps(asdict(self), indent=2) + "\n"


_CHOSEN = TypeAdapter(Chosen)


def read_chosen(folder: RunFolder) -> Chosen | None:
    """Reads which checkpoint a run's adapter is; None in a run of a version that took the last one.

    Raises:
        RunError: when the file is not what a training wrote.
    """
    path = folder.chosen_file
    if not path.is_file():
        return None
    need, hint = "what the training wrote", f"bring {path.name} back from a copy of the folder"
    return read_as(path, _CHOSEN, error=RunError, subject=f"run folder {folder.path}", need=need, hint=hint)


def describe_adapter(chosen: Chosen) -> str:
    """Says which checkpoint a run's adapter is: `checkpoint-24 of 40 steps, the best by eval_loss (0.1234)`."""
    measured = "" if chosen.value is None else f" ({chosen.by} {chosen.value:.4g})"
    why = {"best": f"the best by {chosen.by}", "last": "the last one"}.get(str(chosen.asked), "as asked for")
    return f"checkpoint-{chosen.step} of {chosen.num_steps} steps, {why}{measured}"


def refuse_other_choice(loaded: LoadedRecipe) -> None:
    """Refuses a recipe that asks for another checkpoint than the one that its trained run has made its adapter.

    Raises:
        RunError: when it does.
    """
    folder, asked = RunFolder(loaded.recipe.run_dir.absolute()), loaded.recipe.export.checkpoint
    chosen = read_chosen(folder)
    if chosen is None and asked == "last":
        return
    if chosen is not None:
        step = {"best": chosen.best_step, "last": chosen.last_step}.get(str(asked), asked)
        if chosen.step == step:
            return
    is_now = "`last`" if chosen is None else f"{quote(chosen.asked)} (step {chosen.step})"
    hint = f"cvft export {folder.path} --checkpoint {asked} merges that one beside it; cvft eval takes the same"
    problem = Problem("export.checkpoint", quote(asked), f"{is_now}, which this run's adapter is", hint)
    raise RunError(f"run folder {loaded.recipe.run_dir}", [problem])


def read_metrics(evaluation: Path) -> dict[str, Any] | None:
    """Reads what one of a run's models scored.

    Args:
        evaluation: Folder of an evaluation.

    Returns:
        `settings` and `metrics`, as the evaluation wrote them, or None when that model was not evaluated.
    """
    path = evaluation / METRICS_FILE
    if not path.is_file():
        return None
    subject, hint = f"evaluation {evaluation}", "move its folder away and evaluate again: cvft eval"
    try:
        stored = read_object(path)
    except JsonError as error:
        raise RunError(subject, [Problem(path.name, str(error), "what an evaluation wrote", hint)]) from error
    if problems := check_object(stored, _METRICS, where=path.name, hint=hint):
        raise RunError(subject, problems)
    return stored


def find_trained_run(loaded: LoadedRecipe) -> RunFolder:
    """Finds a recipe's run that was trained; writes nothing.

    Raises:
        RunError: when there is no adapter yet, when it is another checkpoint than the recipe asks for, or when the folder belongs
            to another recipe or to none.
    """
    folder = find_run(loaded)
    if not any(folder.adapter.glob("*")):
        hint = f"train it first: cvft train {loaded.path}"
        problem = Problem("adapter/", "no such folder", "a trained adapter", hint)
        raise RunError(f"run folder {loaded.recipe.run_dir}", [problem])
    refuse_other_choice(loaded)
    return folder


def find_run(loaded: LoadedRecipe) -> RunFolder:
    """Finds a recipe's run, finished or not; writes nothing.

    Raises:
        RunError: when there is none, or when the folder belongs to another recipe or to none.
    """
    folder = RunFolder(loaded.recipe.run_dir.absolute())
    subject = f"run folder {loaded.recipe.run_dir}"
    if not folder.path.is_dir() or not any(folder.path.iterdir()):
        hint = f"train it first: cvft train {loaded.path}"
        raise RunError(subject, [Problem("adapter/", "no such folder", "a trained adapter", hint)])
    if not is_claimed(loaded):
        raise RunError(
            subject, [Problem("folder", "files that no run of cvft wrote", "a run's folder", HINT_OTHER_NAME)]
        )
    return folder


def claim_run_folder(loaded: LoadedRecipe) -> RunFolder:
    """Makes a recipe's run folder, or takes up the one that it has.

    Args:
        loaded: The recipe.

    Returns:
        The folder, holding the recipe's snapshot.

    Raises:
        RunError: when the folder belongs to a recipe that would train other weights, or to no recipe at all.
    """
    folder = RunFolder(loaded.recipe.run_dir.absolute())
    # a claim that was killed leaves the folder, and what it wrote of the snapshot
    is_taken = folder.path.is_dir() and not all(map(is_temporary, folder.path.iterdir()))
    if not is_claimed(loaded) and is_taken:
        raise RunError(
            f"run folder {loaded.recipe.run_dir}",
            [Problem("folder", "files that no run of cvft wrote", "an empty or absent folder", HINT_OTHER_NAME)],
        )
    folder.path.mkdir(parents=True, exist_ok=True)
    write_whole(folder.recipe_file, dump_recipe(with_absolute_output(loaded.recipe)))
    return folder


def is_claimed(loaded: LoadedRecipe) -> bool:
    """Tells whether a recipe's run folder is there and its own; writes nothing.

    Raises:
        RunError: when the folder belongs to a recipe that would train other weights.
    """
    folder = RunFolder(loaded.recipe.run_dir.absolute())
    if not os.path.isfile(folder.recipe_file):  # nor where we may not look: whoever writes there says why
        return False
    subject = f"run folder {loaded.recipe.run_dir}"
    try:
        earlier = load_recipe(folder.recipe_file).recipe
    except CvftError as error:
        problem = Problem("recipe.yaml", "a recipe that does not load", "the snapshot that cvft wrote", HINT_OTHER_NAME)
        raise RunError(subject, [problem]) from error
    if weights_fingerprint(earlier) != weights_fingerprint(loaded.recipe):
        hint = HINT_OTHER_NAME
        if folder.adapter.is_dir():
            hint += f"; with train.resume_from={folder.path} it starts from this run's adapter"
        changed = differing_settings(earlier, loaded.recipe)
        problems = [
            Problem(path, show_value(now), f"{show_value(before)}, as this folder was trained with")
            for path, before, now in changed
        ]
        raise RunError(subject, [*problems[:-1], replace(problems[-1], hint=hint)])
    return True


@contextmanager
def locked(folder: RunFolder) -> Iterator[None]:
    """Keeps other processes from training in a run folder at the same time.

    Args:
        folder: The run, claimed.

    Raises:
        RunError: when another process trains in it.
    """
    subject = f"run folder {folder.path}"
    with ExitStack() as stack:
        try:
            stack.enter_context(lock(folder.path / LOCK_FILE, timeout_s=0, subject=subject))
        except LockHeldError:
            problem = Problem("folder", "another process that trains in it", "one at a time", "wait for it, or stop it")
            raise RunError(subject, [problem]) from None
        yield
