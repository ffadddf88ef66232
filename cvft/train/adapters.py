"""Adapter folders: what a checkpoint holds of the adapter, with the contract and the recipe that it was trained with.

RUN/train/checkpoint-N -> RUN/adapter (what `export.checkpoint` chooses, when a training is done), RUN/adapter-checkpoint-N
(whichever is asked for later)
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from cvft.errors import Problem, RunError, quote
from cvft.families.contract import CONTRACT_FILE, Contract
from cvft.files import hash_file, publish_folder
from cvft.recipe import Recipe
from cvft.runs import Chosen, RunFolder, describe_adapter
from cvft.train.checkpoints import find_best_checkpoint, find_checkpoints, step_of
from cvft.train.marks import BrokenCheckpointError, check_files, read_mark
from cvft.train.selection import describe_end, read_measurements
from cvft.weights.finite import refuse_nonfinite
from cvft.weights.folder import ADAPTER_WEIGHTS_FILE

ADAPTER_FILES = ("adapter_config.json", ADAPTER_WEIGHTS_FILE)
"""What peft writes of an adapter."""


def publish_adapter(checkpoint: Path, target: Path, *, contract: Contract, recipe: str) -> None:
    """Makes an adapter folder of a checkpoint, whole or not at all.

    Args:
        checkpoint: The checkpoint, or another folder with the files of an adapter.
        target: The folder to make.
        contract: How clips and text reached the model.
        recipe: The recipe of the training, as a file holds it.

    Raises:
        ModelError: when a weight is not finite.
    """
    aside = target.with_name(f"{target.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    refuse_nonfinite(checkpoint / ADAPTER_WEIGHTS_FILE, subject=f"the adapter of {checkpoint}")
    aside.mkdir()
    for name in ADAPTER_FILES:
        shutil.copyfile(checkpoint / name, aside / name)
    (aside / CONTRACT_FILE).write_text(contract.to_json(), encoding="utf-8")
    (aside / "recipe.yaml").write_text(recipe, encoding="utf-8")
    publish_folder(aside, target)


def choose_adapter(run: RunFolder, *, recipe: Recipe, last: Path, num_steps: int) -> Chosen:
    """Chooses the checkpoint that becomes a run's adapter, as `export.checkpoint` says.

    Args:
        run: The run, its training done.
        recipe: Its recipe.
        last: Its last checkpoint.
        num_steps: Steps that were planned.

    Raises:
        RunError: when it is not there, or when nothing says which is the best.
    """
    asked, by = recipe.export.checkpoint, recipe.train.select_by
    best = find_best_checkpoint(run.train, by=by)
    if asked == "best" and best is None:
        problem = Problem("export.checkpoint", f"`best`, and no checkpoint says its {by}", "`last`, or a step")
        raise RunError(f"run folder {run.path}", [problem])
    path = run.train / f"checkpoint-{asked}" if isinstance(asked, int) else (best if asked == "best" else last)
    if path is None or path not in find_checkpoints(run.train):
        kept = ", ".join(str(step_of(each)) for each in find_checkpoints(run.train))
        problem = Problem("export.checkpoint", quote(asked), f"a checkpoint that is there: {kept}, `best` or `last`")
        raise RunError(f"run folder {run.path}", [problem])
    log = json.loads((last / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    measured = read_measurements(log, by=by)
    is_early = step_of(last) < num_steps
    return Chosen(
        step=step_of(path),
        asked=asked,
        by=by,
        value=read_mark(path).value_of(by),
        last_step=step_of(last),
        best_step=None if best is None else step_of(best),
        num_steps=num_steps,
        ended_early=describe_end(measured, by=by, num_steps=num_steps) if is_early else "",
    )


def describe_choice(chosen: Chosen) -> list[str]:
    """Says in lines for the terminal what a run's adapter is, where there was a choice."""
    lines = [f"note      {chosen.ended_early}"] if chosen.ended_early else []
    if chosen.asked != "last":
        lines.append(f"adapter   {describe_adapter(chosen)}")
    elif chosen.best_step not in (None, chosen.last_step):
        lines.append(
            f"best      checkpoint-{chosen.best_step} is better by {chosen.by}; adapter/ is the last one "
            "(export.checkpoint=best takes the best one)"
        )
    return lines


def choose_checkpoint(run: RunFolder, which: str, *, by: str) -> RunFolder:
    """Finds a checkpoint that a run has kept.

    Args:
        run: The run.
        which: Its step, `best` or `last`.
        by: What makes a checkpoint the best one: `train.select_by`.

    Returns:
        The run, with that checkpoint in place of its adapter.

    Raises:
        RunError: when it was not kept.
    """
    kept = find_checkpoints(run.train)
    steps = {step_of(path) for path in kept} | {
        step_of(path) for path in run.path.glob("adapter-checkpoint-*") if path.name.rpartition("-")[2].isdigit()
    }
    best = find_best_checkpoint(run.train, by=by)
    step: int | None = int(which) if which.isdecimal() and which.isascii() else None
    if which == "last" and kept:
        step = step_of(kept[-1])
    elif which == "best" and best is not None:
        step = step_of(best)
    if step is None or step not in steps:
        names = ", ".join(map(str, sorted(steps))) or "none was"
        got = f"{quote(which)}, and {by} was not measured" if which == "best" else quote(which)
        hint = "train.keep_checkpoints says how many of the newest stay"
        need = f"the step of a checkpoint that was kept ({names}), `best` or `last`"
        raise RunError(f"run folder {run.path}", [Problem("--checkpoint", got, need, hint)])
    return RunFolder(run.path, step)


def adopt_checkpoint(run: RunFolder, *, contract: Contract) -> None:
    """Makes the adapter folder of a checkpoint that was chosen, unless it is there.

    Args:
        run: The run with its checkpoint.
        contract: How clips and text reached the model.

    Raises:
        RunError: when the checkpoint is damaged.
    """
    checkpoint = run.train / f"checkpoint-{run.checkpoint}"
    if not checkpoint.is_dir():  # it was asked for before it went
        return
    try:
        check_files(checkpoint)
    except BrokenCheckpointError as error:
        need, hint = "the files that were written", "choose another checkpoint"
        raise RunError(f"run folder {run.path}", [Problem(checkpoint.name, f"{error}", need, hint)]) from error
    there = run.adapter / ADAPTER_WEIGHTS_FILE
    if not there.is_file() or hash_file(there) != hash_file(checkpoint / ADAPTER_WEIGHTS_FILE):
        publish_adapter(checkpoint, run.adapter, contract=contract, recipe=run.recipe_file.read_text(encoding="utf-8"))
