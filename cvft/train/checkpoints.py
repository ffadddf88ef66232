"""Checkpoints on disk: published whole or not at all, pruned, and checked before a training continues from one.

train/checkpoint.partial/checkpoint-N, written by all ranks -> marked and synced -> renamed to train/checkpoint-N

A folder under a final name was whole when it got that name: see `cvft.files.publish_folder`. What became of it since, the hashes
in its mark say (`cvft.train.marks`); one that is damaged is set aside as train/broken-checkpoint-N.
"""

from __future__ import annotations

import contextlib
import errno
import re
import shutil
from pathlib import Path

from cvft.errors import Problem, RunError, quote
from cvft.files import publish_folder, recover_folder
from cvft.plan.plan import WorkerPlan
from cvft.train.marks import BrokenCheckpointError, CheckpointMark, check_files, read_mark, write_mark
from cvft.train.selection import Measurement, find_best

ASIDE = "checkpoint.partial"
"""Under `train/`: where a checkpoint is written before it gets its final name."""

NAME = re.compile(r"checkpoint-(0|[1-9][0-9]{0,17})")
"""A checkpoint's name: its step, as it is written."""

FULL_DISK_BYTES = 2**20
"""Less free space than this, right after a write failed, means that the disk was full."""


def find_checkpoints(train_folder: Path) -> list[Path]:
    """Returns the published checkpoints with a sound mark, oldest first; `set_broken_aside` looks at their files."""
    found = []
    for path in _find_named(train_folder):
        with contextlib.suppress(BrokenCheckpointError):
            read_mark(path)
            found.append(path)
    return found


def _find_named(train_folder: Path) -> list[Path]:
    """Folders that are named like a checkpoint, oldest first."""
    named = [path for path in train_folder.glob("checkpoint-*") if NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(named, key=step_of)


def set_broken_aside(train_folder: Path) -> list[str]:
    """Takes the names of checkpoints from those that are not what was written, so that nothing continues from them.

    Args:
        train_folder: Folder of all checkpoints; nobody trains in it.

    Returns:
        What was set aside and why, a sentence each, newest first.
    """
    notes = []
    for checkpoint in reversed(_find_named(train_folder)):
        try:
            check_files(checkpoint)
        except BrokenCheckpointError as error:
            aside = checkpoint.with_name(f"broken-{checkpoint.name}")
            shutil.rmtree(aside, ignore_errors=True)
            checkpoint.rename(aside)
            notes.append(f"{checkpoint.name} is not taken, because {error}; it now lies in {aside.name}")
    return notes


def find_last_checkpoint(train_folder: Path) -> Path | None:
    """Returns the newest published checkpoint, or None."""
    return next(reversed(find_checkpoints(train_folder)), None)


def step_of(checkpoint: Path) -> int:
    """Returns the step in a checkpoint's name."""
    return int(checkpoint.name.rpartition("-")[2])


def publish(train_folder: Path, mark: CheckpointMark) -> Path:
    """Gives the checkpoint that all ranks have written aside its final name.

    Args:
        train_folder: Folder of all checkpoints, holding `checkpoint.partial/checkpoint-N`.
        mark: What the checkpoint says about itself.

    Returns:
        The checkpoint.
    """
    name = f"checkpoint-{mark.step}"
    aside, final = train_folder / ASIDE / name, train_folder / name
    write_mark(aside, mark)
    # the same step can be saved again only by a training that began before it: what lies there was superseded
    publish_folder(aside, final)
    shutil.rmtree(train_folder / ASIDE)
    return final


def prune(train_folder: Path, *, keep: int, by: str = "eval_loss", asked: int | None = None) -> None:
    """Removes all checkpoints but the newest, the best one and one that was asked for.

    Args:
        train_folder: Folder of all checkpoints.
        keep: Number of newest checkpoints that stay.
        by: What makes a checkpoint the best one.
        asked: Step of a checkpoint that stays in any case, or None.
    """
    checkpoints = find_checkpoints(train_folder)
    best = find_best_checkpoint(train_folder, by=by)
    for checkpoint in checkpoints[:-keep]:
        if checkpoint == best or step_of(checkpoint) == asked:
            continue
        # a removal that is interrupted leaves no folder that looks like a checkpoint
        doomed = checkpoint.with_name(f"removed-{checkpoint.name}")
        shutil.rmtree(doomed, ignore_errors=True)
        checkpoint.rename(doomed)
        shutil.rmtree(doomed)


def find_best_checkpoint(train_folder: Path, *, by: str = "eval_loss") -> Path | None:
    """Returns the best checkpoint, the earliest of equals, or None when none was measured.

    Args:
        train_folder: Folder of all checkpoints.
        by: What makes a checkpoint the best one: see `cvft.recipe.schema.SelectBy`.
    """
    paths = {step_of(path): path for path in find_checkpoints(train_folder)}
    values = {step: read_mark(path).value_of(by) for step, path in paths.items()}
    best = find_best([Measurement(step, value) for step, value in values.items() if value is not None], by=by)
    return None if best is None else paths[best.step]


def is_end(checkpoint: Path, *, num_steps: int) -> bool:
    """Tells whether a training is done with a checkpoint: it is that of the last step, or the training ended early there."""
    return step_of(checkpoint) == num_steps or read_mark(checkpoint).is_final


def remove_leftovers(train_folder: Path) -> None:
    """Removes what a training that was killed has left half-written or half-removed, and brings back what it replaced."""
    for leftover in train_folder.glob(".checkpoint-*"):
        recover_folder(train_folder / leftover.name[1:].partition(".")[0])
    shutil.rmtree(train_folder / ASIDE, ignore_errors=True)
    for doomed in train_folder.glob("removed-checkpoint-*"):
        shutil.rmtree(doomed, ignore_errors=True)


def check_can_continue(checkpoint: Path, plan: WorkerPlan) -> str | None:
    """Checks that a plan's ranks can continue a checkpoint.

    The weights and the optimizer state of `single` and `ddp` are whole in every checkpoint, so any number of ranks can
    take them up. DeepSpeed cuts the optimizer state into one file per rank, in a form of its own for each stage.

    Args:
        checkpoint: The checkpoint.
        plan: The plan that is to continue it.

    Returns:
        What changes, in a sentence for the user, or None when everything is as it was.

    Raises:
        RunError: when its optimizer state does not fit the plan's ranks.
    """
    mark = read_mark(checkpoint)
    if (mark.strategy, mark.num_ranks) == (plan.strategy, plan.num_ranks):
        return None
    before, now = _name_ranks(mark.strategy, mark.num_ranks), _name_ranks(plan.strategy, plan.num_ranks)
    if {mark.strategy, plan.strategy} <= {"single", "ddp"}:
        return (
            f"{checkpoint.name} was written by {before} and continues as {now}: the same rows in the same steps; "
            "dropout draws other numbers, and sums round differently"
        )
    problem = Problem(
        checkpoint.name,
        quote(now),
        f"{quote(before)}: an optimizer state of DeepSpeed fits only the ranks that wrote it, and no other",
        "continue with that setting, or train anew under another name (name=...)",
    )
    raise RunError("the training to continue", [problem])


def _name_ranks(strategy: str, num_ranks: int) -> str:
    return f"{strategy} on {num_ranks} rank{'s' if num_ranks > 1 else ''}"


def is_disk_full(error: BaseException, folder: Path) -> bool:
    """Tells whether a failed write failed for want of space.

    torch and safetensors hide the number of the system's error, so the free space itself is looked at too.

    Args:
        error: What was raised by the write.
        folder: A folder on the disk in question, its half-written files still in place.
    """
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return "No space left" in str(error) or has_no_space(folder)


def has_no_space(folder: Path) -> bool:
    """Tells whether the disk of a folder is full."""
    return shutil.disk_usage(folder).free < FULL_DISK_BYTES


def disk_full_error(train_folder: Path) -> RunError:
    """Returns the error for a training whose disk is full, with what is left to continue from."""
    last = find_last_checkpoint(train_folder)
    kept = f"{last.name} is intact: " if last is not None else ""
    hint = f"{kept}free some space and run the same command again"
    return RunError("the training", [Problem(str(train_folder), "a full disk", "room for checkpoints and logs", hint)])
