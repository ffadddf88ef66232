"""Training from a recipe to an adapter folder: prepare, plan, launch, publish; continued where it stopped.

recipe -> RUN/data, RUN/plan.json -> worker -> RUN/train/checkpoint-N -> RUN/adapter
"""

from __future__ import annotations

import dataclasses
import shutil
import sys
from pathlib import Path

from tqdm import tqdm

from cvft.data.files import write_text_atomically
from cvft.engine.folder import COMPLETE_MARK, PROGRESS_FILE, RunFolder, claim_run_folder
from cvft.engine.launch import launch
from cvft.engine.manifest import write_manifest
from cvft.engine.plan import Plan, compile_plan
from cvft.engine.prepare import Prepared, count_gpus, prepare, write_row_files
from cvft.errors import Problem, RunError
from cvft.model.contract import CONTRACT_FILE
from cvft.model.folder import make_clean_view
from cvft.recipe import LoadedRecipe

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


def train(loaded: LoadedRecipe) -> RunFolder:
    """Trains a recipe's adapter, or continues a training that was stopped, or returns one that is done.

    Args:
        loaded: The recipe.

    Returns:
        The run folder, holding `adapter/`.

    Raises:
        CvftError: when recipe, rows, clips, model or machine do not allow it; then nothing was trained.
        RunError: when the folder belongs to another recipe, or when the worker fails.
    """
    recipe = loaded.recipe
    prepared = _prepare_with_progress(loaded)
    plan = compile_plan(recipe, model=prepared.model, rows=prepared.row_facts, num_gpus_present=count_gpus())
    folder = claim_run_folder(loaded)
    _publish_quarantine(loaded, folder)
    if (folder.adapter / ADAPTER_FILES[1]).is_file():
        print(f"adapter   {folder.adapter} (trained before)", file=sys.stderr)
        return folder
    write_row_files(prepared, folder)
    make_clean_view(prepared.model.path, folder.model_view)
    checkpoint = find_last_checkpoint(folder.train)
    if checkpoint is not None:
        print(f"resume    {checkpoint.name}", file=sys.stderr)
        plan = _resumed(plan, checkpoint)
    write_text_atomically(folder.plan_file, plan.to_json())
    write_manifest(folder, loaded=loaded, prepared=prepared, plan=plan)
    print(describe(plan, prepared), file=sys.stderr)
    launch(plan, progress_file=folder.train / PROGRESS_FILE)
    last = find_last_checkpoint(folder.train)
    if last is None or _step_of(last) != plan.num_steps:
        got = "no checkpoint" if last is None else f"{last.name} as the last one"
        raise RunError("the training", [Problem(str(folder.train), got, f"checkpoint-{plan.num_steps}")])
    _publish_adapter(last, folder, prepared=prepared)
    return folder


def describe(plan: Plan, prepared: Prepared) -> str:
    """Writes what a plan will do in a few lines for the terminal."""
    rows, arguments = prepared.row_facts, plan.swift_arguments
    num_tokens = sorted(prepared.num_tokens)
    lines = [
        f"rows      {rows.num_train_rows} train, {rows.num_val_rows} val, {len(prepared.quarantined)} quarantined; "
        f"{len(prepared.clips)} clips",
        f"tokens    {num_tokens[0]} to {num_tokens[-1]} per row, median {num_tokens[len(num_tokens) // 2]}",
        f"feeding   template {plan.feeding.template}, sampling {plan.feeding.sampling}, decoder {plan.decoder}",
        f"batch     {arguments['per_device_train_batch_size']} rows x {plan.accumulation_steps} accumulated "
        f"x {plan.num_ranks} ranks",
        f"steps     {plan.num_steps} ({plan.steps_per_epoch} per epoch), {arguments['torch_dtype']}",
        *(f"note      {note}" for note in prepared.notes),
    ]
    return "\n".join(lines)


def find_last_checkpoint(train_folder: Path) -> Path | None:
    """Returns the newest checkpoint that was written to its end, or None."""
    whole = [path.parent for path in train_folder.glob(f"checkpoint-*/{COMPLETE_MARK}")]
    return max(whole, key=_step_of, default=None)


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _resumed(plan: Plan, checkpoint: Path) -> Plan:
    arguments = {**plan.swift_arguments, "resume_from_checkpoint": str(checkpoint)}
    return dataclasses.replace(plan, swift_arguments=arguments)


def _prepare_with_progress(loaded: LoadedRecipe) -> Prepared:
    with tqdm(desc="clips", unit="clip", file=sys.stderr, dynamic_ncols=True, leave=False) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        return prepare(loaded.recipe, quarantine_file=_quarantine_aside(loaded), on_progress=show)


def _quarantine_aside(loaded: LoadedRecipe) -> Path:
    """Where rows are set aside before the run folder is claimed; a refused run leaves nothing in the folder."""
    run_dir = loaded.recipe.run_dir
    return run_dir.with_name(f".{run_dir.name}.quarantine.jsonl")


def _publish_quarantine(loaded: LoadedRecipe, folder: RunFolder) -> None:
    aside = _quarantine_aside(loaded)
    if aside.is_file():
        aside.replace(folder.path / "quarantine.jsonl")


def _publish_adapter(checkpoint: Path, folder: RunFolder, *, prepared: Prepared) -> None:
    aside = folder.adapter.with_name("adapter.partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    for name in ADAPTER_FILES:
        shutil.copyfile(checkpoint / name, aside / name)
    (aside / CONTRACT_FILE).write_text(prepared.contract.to_json(), encoding="utf-8")
    shutil.copyfile(folder.recipe_file, aside / "recipe.yaml")
    shutil.rmtree(folder.adapter, ignore_errors=True)
    aside.rename(folder.adapter)
