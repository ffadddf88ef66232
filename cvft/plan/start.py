"""The adapter that a training starts from in place of a fresh one. No torch.

`train.resume_from` -> the folder of a run, of its adapter or of a checkpoint -> `Start`, proved to fit the new run
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cvft.errors import Problem, RecipeError, quote
from cvft.families.contract import CONTRACT_FILE, Contract, check_contract, contract_from_dict, read_contract
from cvft.manifest import read_manifest
from cvft.plan.job import Job
from cvft.recipe import Recipe, load_recipe
from cvft.runs import RunFolder
from cvft.weights.folder import ADAPTER_WEIGHTS_FILE

KEY = "train.resume_from"


@dataclass(frozen=True)
class Start:
    """An adapter to start from.

    Args:
        folder: The folder with its weights.
        contract: How clips and text reached the model in its training.
        recipe: The recipe of its training.
    """

    folder: Path
    contract: Contract
    recipe: Recipe


def find_start(job: Job) -> Start | None:
    """Finds the adapter that a job starts from, and proves that it fits.

    Args:
        job: The job, with its model's weights.

    Returns:
        The adapter, or None when training starts from a fresh one.

    Raises:
        RecipeError: when there is no adapter, when it is the run's own, or when its layers are of another form.
        ContractError: when it was trained on another base, or fed in another way.
    """
    path = job.recipe.train.resume_from
    if path is None:
        return None
    subject = job.loaded.subject
    if path.absolute() == job.run.path or job.run.path in path.absolute().parents:
        hint = "a finished run stays as it is: give the new one a name of its own (name=...)"
        raise RecipeError(subject, [Problem(KEY, f"`{path}`, which is this run itself", "another run", hint)])
    start = _read(path, subject=subject)
    before, now = start.recipe.lora.model_dump(), job.recipe.lora.model_dump()
    problems = [
        Problem(f"lora.{key}", quote(now[key]), f"{quote(value)}, as the adapter in {path} has")
        for key, value in before.items()
        if now[key] != value
    ]
    if problems:
        raise RecipeError(subject, problems)
    check_contract(start.contract, job.contract, folder=start.folder)
    return start


def read_start(job: Job) -> Start | None:
    """Reads the copy of the adapter that a run has started from, or returns None when it started from a fresh one."""
    folder = job.run.start
    if job.recipe.train.resume_from is None or not (folder / CONTRACT_FILE).is_file():
        return None
    return Start(folder, read_contract(folder), load_recipe(folder / "recipe.yaml").recipe)


def _read(path: Path, *, subject: str) -> Start:
    run = RunFolder(path.absolute())
    for folder in (run.adapter, path):
        if (folder / ADAPTER_WEIGHTS_FILE).is_file() and (folder / CONTRACT_FILE).is_file():
            return Start(folder, read_contract(folder), load_recipe(folder / "recipe.yaml").recipe)
    run = RunFolder(path.absolute().parent.parent)
    if (path / ADAPTER_WEIGHTS_FILE).is_file() and path.absolute().parent == run.train and run.manifest_file.is_file():
        contract = contract_from_dict(read_manifest(run).contract, subject=f"run folder {run.path}", where="contract")
        return Start(path, contract, load_recipe(run.recipe_file).recipe)
    got = f"`{path}`, which holds no adapter" if path.exists() else f"`{path}`, which does not exist"
    need = "the folder of a finished run, of its adapter, or of a checkpoint in its train/"
    raise RecipeError(subject, [Problem(KEY, got, need, "cvft run RECIPE makes one")])
