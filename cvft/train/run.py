"""Training from a recipe to an adapter folder: prepare, plan, launch, publish; continued where it stopped.

recipe -> RUN/data, RUN/plan.json -> worker -> RUN/train/checkpoint-N -> RUN/adapter
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from tqdm import tqdm

from cvft.clips.provide import mend_store
from cvft.data.features.store import FeatureStore
from cvft.errors import Problem, RunError, StoppedError
from cvft.families.contract import CONTRACT_FILE
from cvft.files import hash_file, write_whole
from cvft.plan.describe import describe_plan, describe_source
from cvft.plan.machine import check_packages, memory_per_rank, read_gpus
from cvft.plan.plan import Plan, compile_plan
from cvft.plan.prepare import Prepared, find_model, make_feature_key, prepare, write_row_files
from cvft.plan.ranks import Ranks, decide_ranks, node_rank_of, worker_command, worker_environment
from cvft.recipe import LoadedRecipe
from cvft.runs import RunFolder, claim_run_folder, is_claimed, locked
from cvft.train.checkpoints import (
    check_can_continue,
    disk_full_error,
    find_best_checkpoint,
    find_last_checkpoint,
    has_no_space,
    remove_leftovers,
    step_of,
)
from cvft.train.launch import launch, merge_environment
from cvft.train.manifest import write_manifest
from cvft.train.rendezvous import check_port_is_free, wait_for_first_node
from cvft.train.stop import STOP_FILE
from cvft.weights.folder import make_clean_view

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


def train(loaded: LoadedRecipe) -> RunFolder | None:
    """Trains a recipe's adapter, or continues a training that was stopped, or returns one that is done.

    Args:
        loaded: The recipe.

    Returns:
        The run folder, holding `adapter/`; None on every machine but the first, whose part ends here.

    Raises:
        CvftError: when recipe, rows, clips, model or machine do not allow it; then nothing was trained.
        RunError: when the folder belongs to another recipe or another process, or when the worker fails.
        StoppedError: when it was asked to stop before it was done.
    """
    recipe = loaded.recipe
    folder = RunFolder(recipe.run_dir.absolute())
    is_first_node = node_rank_of(recipe) == 0
    # before any clip is decoded: what is wrong with folder or machine is told, and what is done is not prepared again
    if is_claimed(loaded) and (folder.adapter / ADAPTER_FILES[1]).is_file():
        print(f"adapter   {folder.adapter} (trained before)", file=sys.stderr)
        return folder if is_first_node else None
    check_packages(recipe)
    gpus = read_gpus()
    ranks = decide_ranks(recipe, num_gpus_present=len(gpus))
    recipe.accumulation_steps(num_ranks=ranks.num)
    environment = worker_environment(folder.path, num_threads=recipe.parallel.num_threads)
    variables = merge_environment(environment, os.environ)
    if not is_first_node:
        _join_first_node(loaded, folder, ranks=ranks, variables=variables)
        return None
    if recipe.parallel.rendezvous is not None:
        check_port_is_free(recipe.parallel.rendezvous)
    source = find_model(recipe)
    if source.hub is not None:
        print(describe_source(source), file=sys.stderr)
    prepared = _prepare_with_progress(loaded)
    plan = compile_plan(
        recipe,
        model=prepared.model,
        rows=prepared.row_facts,
        num_gpus_present=len(gpus),
        memory_bytes=memory_per_rank(ranks, gpus),
        feature_key=lambda device: make_feature_key(
            recipe, contract=prepared.contract, model=prepared.model, device=device
        ),
    )
    claim_run_folder(loaded)
    with locked(folder):
        _publish_quarantine(loaded, folder)
        _train_planned(plan, folder, loaded=loaded, prepared=prepared, variables=variables)
    return folder


def _join_first_node(loaded: LoadedRecipe, folder: RunFolder, *, ranks: Ranks, variables: Mapping[str, str]) -> None:
    """Runs the ranks of a node that is not the first, which prepares the run and publishes its results."""
    recipe, node_rank = loaded.recipe, node_rank_of(loaded.recipe)
    assert recipe.parallel.rendezvous is not None
    # it listens when its folder is ready; the ranks read their plan after all nodes have met
    wait_for_first_node(recipe.parallel.rendezvous, timeout_s=recipe.parallel.rendezvous_timeout_s)
    if not is_claimed(loaded):
        need = f"the folder that the first node has made: {recipe.run_dir} on a file system that all nodes share"
        raise RunError(
            "the nodes", [Problem("run folder", "nothing there", need, "set output.root to a shared folder")]
        )
    command = worker_command(recipe, num_per_node=ranks.num_per_node, node_rank=node_rank, plan_file=folder.plan_file)
    launch(command, variables=variables, folder=folder, node_rank=node_rank)


def _train_planned(
    plan: Plan, folder: RunFolder, *, loaded: LoadedRecipe, prepared: Prepared, variables: Mapping[str, str]
) -> None:
    write_row_files(prepared, folder)
    make_clean_view(prepared.model.path, folder.model_view)
    remove_leftovers(folder.train)
    last = find_last_checkpoint(folder.train)
    if last is None or step_of(last) < plan.num_steps:
        if last is not None:
            _refuse_other_rows(folder, last)
            note = check_can_continue(last, plan)
            print(f"resume    {note or last.name}", file=sys.stderr)
            plan = _resumed(plan, last)
        if plan.features is not None:
            mend_store(FeatureStore(plan.features_root, plan.features))
        write_whole(folder.plan_file, plan.to_json())
        write_manifest(folder, loaded=loaded, prepared=prepared, plan=plan)
        print(describe_plan(plan, prepared), file=sys.stderr)
        last = _launch(plan, folder, variables=variables)
    _publish_adapter(last, folder, prepared=prepared)
    best = find_best_checkpoint(folder.train)
    if best is not None and best != last:
        print(f"best      {best} has the lowest val loss; adapter/ is the last one", file=sys.stderr)


def _refuse_other_rows(folder: RunFolder, last: Path) -> None:
    earlier = json.loads(folder.manifest_file.read_text(encoding="utf-8"))["rows"]["train_sha256"]
    if earlier != hash_file(folder.train_rows):
        need = f"the rows that {last.name} was trained on"
        hint = "bring them back, or train on the new ones under another name (name=...)"
        raise RunError("the training to continue", [Problem("data.train", "other rows", need, hint)])


def _launch(plan: Plan, folder: RunFolder, *, variables: Mapping[str, str]) -> Path:
    """Runs the worker and returns the checkpoint of the last step."""
    stop_file = folder.train / STOP_FILE
    try:
        launch(plan.command, variables=variables, folder=folder, num_steps=plan.num_steps)
    except RunError:
        # a scheduler that signals every process also ends torch's launcher, whose exit code then says nothing
        if has_no_space(folder.train):
            # the worker may not even have been able to write why it ended
            raise disk_full_error(folder.train) from None
        if not (stop_file.exists() and _last_reported_step(folder) == _last_saved_step(folder)):
            raise
    last = find_last_checkpoint(folder.train)
    if last is not None and step_of(last) == plan.num_steps:
        return last
    if stop_file.exists():
        saved = f"{last.name} is saved" if last is not None else "it had done no step yet"
        raise StoppedError(f"the training was asked to stop: {saved}; the same command continues it")
    got = "no checkpoint" if last is None else f"{last.name} as the last one"
    raise RunError("the training", [Problem(str(folder.train), got, f"checkpoint-{plan.num_steps}")])


def _last_saved_step(folder: RunFolder) -> int:
    last = find_last_checkpoint(folder.train)
    return step_of(last) if last is not None else 0


def _last_reported_step(folder: RunFolder) -> int:
    lines = folder.progress_file.read_text(encoding="utf-8").splitlines() if folder.progress_file.is_file() else []
    return int(json.loads(lines[-1]).get("step", 0)) if lines else 0


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
