"""The job of a run that was trained, for whoever asks its models, merges them or publishes them. No torch.

recipe + run folder [+ where the base lies by now] [+ a checkpoint] -> `Job`, proved to be fed as in training
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cvft.errors import ModelError
from cvft.families.contract import CONTRACT_FILE, Contract, check_contract, contract_from_dict, read_contract
from cvft.manifest import read_manifest
from cvft.plan.job import Job, open_job
from cvft.recipe import LoadedRecipe
from cvft.runs import RunFolder

HINT_BASE = "does the base lie elsewhere by now? --base FOLDER says where"


def open_trained_job(loaded: LoadedRecipe, run: RunFolder, *, base: Path | None = None) -> Job:
    """Opens the job of a run that has an adapter or a checkpoint.

    Args:
        loaded: The recipe of the run.
        run: The run, with the checkpoint that is meant.
        base: Where its base lies by now; without it, where it lay in training.

    Raises:
        CvftError: with everything that recipe, family, model folder and machine refuse.
        ContractError: when the base is another one, or rows would reach it in another way than in training.
    """
    contract = contract_of(run)
    if base is not None:
        recipe = loaded.recipe
        # its name decided what was `auto`; the folder may have another one by now
        model = {"path": str(base.absolute()), "revision": None, "template": contract.template}
        video = recipe.video.model_copy(update={"sampling": contract.sampling})
        recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update=model), "video": video})
        loaded = replace(loaded, recipe=recipe)
    try:
        job = open_job(loaded)
    except ModelError as error:
        if base is not None:
            raise
        problems = [replace(each, hint=f"{each.hint}; {HINT_BASE}".removeprefix("; ")) for each in error.problems]
        raise ModelError(error.subject, problems) from error
    check_contract(contract, job.contract, folder=run.adapter)
    return replace(job, run=run)


def contract_of(run: RunFolder) -> Contract:
    """Reads how clips and text reached a run's model: beside its adapter, or in its manifest where there is none yet.

    Raises:
        ContractError: when it is no contract.
        RunError: when there is no manifest.
    """
    if (run.adapter / CONTRACT_FILE).is_file():
        return read_contract(run.adapter)
    return contract_from_dict(
        read_manifest(run).contract, subject=f"run folder {run.path}", where="manifest.json: contract"
    )
