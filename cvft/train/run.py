"""Training from a recipe to an adapter folder: prepare, plan, launch, publish; continued where it stopped.

recipe -> RUN/data, RUN/plan.json -> worker -> RUN/train/checkpoint-N -> RUN/adapter
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path

from cvft.data.check import write_quarantine
from cvft.data.features.repair import repair_store
from cvft.data.features.store import FeatureStore
from cvft.errors import Problem, RunError, StoppedError
from cvft.files import drop_torn_line, recover_folder, write_whole
from cvft.plan.describe import describe_plan
from cvft.plan.environment import find_overruled, merge_environment, worker_environment
from cvft.plan.health import write_health
from cvft.plan.job import Job, describe_source
from cvft.plan.plan import Plan, compile_plan
from cvft.plan.prepare import PreparedRows, prepare
from cvft.plan.ranks import node_rank_of, worker_command
from cvft.plan.recorded import refuse_other_data, refuse_other_order
from cvft.plan.start import Start, find_start, read_start
from cvft.progress import counting_clips
from cvft.recipe import LoadedRecipe, dump_recipe
from cvft.runs import RunFolder, claim_run_folder, is_claimed, locked, refuse_other_choice
from cvft.train.adapters import choose_adapter, describe_choice, publish_adapter
from cvft.train.checkpoints import (
    check_can_continue,
    disk_full_error,
    find_last_checkpoint,
    has_no_space,
    is_end,
    remove_leftovers,
    set_broken_aside,
    step_of,
)
from cvft.train.launch import launch, read_new_lines
from cvft.train.manifest import write_manifest
from cvft.train.prove import prove
from cvft.train.rendezvous import check_port_is_free, wait_for_first_node
from cvft.train.row_files import write_row_files
from cvft.train.stop import STOP_FILE
from cvft.train.tracking import tracking
from cvft.train.watch import write_notes
from cvft.weights.folder import ADAPTER_WEIGHTS_FILE, make_clean_view

LOG = logging.getLogger(__name__)

LOG_FILE = "logging.jsonl"
"""Under `train/`: what ms-swift logs, which the report draws."""


def is_trained(loaded: LoadedRecipe) -> bool:
    """Tells whether a recipe's adapter is there; writes nothing.

    Raises:
        RunError: when the run folder belongs to a recipe that would train other weights.
    """
    folder = RunFolder(loaded.recipe.run_dir.absolute())
    return is_claimed(loaded) and (folder.adapter / ADAPTER_WEIGHTS_FILE).is_file()


def train(job: Job) -> RunFolder | None:
    """Trains a job's adapter, or continues a training that was stopped, or returns one that is done.

    Args:
        job: The job, opened to train.

    Returns:
        The run folder, holding `adapter/`; None on every machine but the first, whose part ends here.

    Raises:
        CvftError: when recipe, rows, clips, model or machine do not allow it; then nothing was trained.
        RunError: when the folder belongs to another recipe or another process, or when the worker fails.
        StoppedError: when it was asked to stop before it was done.
    """
    recipe, folder = job.recipe, job.run
    is_first_node = node_rank_of(recipe) == 0
    # before any clip is decoded: what is wrong with folder or machine is reported, and what is done is not prepared again
    if is_trained(job.loaded):
        refuse_other_choice(job.loaded)
        for note in refuse_other_data(folder, recipe=recipe, since="this run"):
            LOG.info("note      %s", note)
        LOG.info("adapter   %s (trained before)", folder.adapter)
        return folder if is_first_node else None
    environment = worker_environment(
        folder.path,
        num_threads=recipe.parallel.num_threads,
        of_family=job.family.environment(job.preprocessing),
    )
    variables = merge_environment(environment, os.environ)
    for note in find_overruled(environment, os.environ):
        LOG.info("note      %s", note)
    if not is_first_node:
        _join_first_node(job, variables=variables)
        return None
    if recipe.parallel.rendezvous is not None:
        check_port_is_free(recipe.parallel.rendezvous)
    if job.model.source.hub is not None:
        LOG.info(describe_source(job.model.source))
    # what was begun goes on from its own copy
    start = find_start(job) if find_last_checkpoint(folder.train) is None else read_start(job)
    prepared = _prepare_with_progress(job)
    plan = compile_plan(job, prepared.row_facts, proofs=prove(job, prepared, variables=variables))
    # before anything is written: a refusal leaves the folder as it was
    if (last := find_last_checkpoint(folder.train)) is not None:
        refuse_other_data(folder, recipe=recipe, since=last.name)
        refuse_other_order(folder, prepared.train_rows, prepared.clips, since=last.name)
    claim_run_folder(job.loaded)
    with locked(folder):
        recover_folder(folder.adapter)
        write_quarantine(prepared.quarantined, folder.quarantine_file)
        _train_planned(plan, job, prepared=prepared, start=start, variables=variables)
    return folder


def _join_first_node(job: Job, *, variables: Mapping[str, str]) -> None:
    """Runs the ranks of a node that is not the first, which prepares the run and publishes its results."""
    recipe, node_rank = job.recipe, node_rank_of(job.recipe)
    assert recipe.parallel.rendezvous is not None
    # it listens when its folder is ready; the ranks read their plan after all nodes have met
    wait_for_first_node(recipe.parallel.rendezvous, timeout_s=recipe.parallel.rendezvous_timeout_s)
    if not is_claimed(job.loaded):
        need = f"the folder that the first node has made: {recipe.run_dir} on a file system that all nodes share"
        raise RunError(
            "the nodes", [Problem("run folder", "nothing there", need, "set output.root to a shared folder")]
        )
    command = worker_command(
        recipe, num_per_node=job.ranks.num_per_node, node_rank=node_rank, plan_file=job.run.plan_file
    )
    launch(command, variables=variables, folder=job.run, node_rank=node_rank)


def _train_planned(
    plan: Plan, job: Job, *, prepared: PreparedRows, start: Start | None, variables: Mapping[str, str]
) -> None:
    folder, worker = job.run, plan.worker
    write_row_files(prepared, folder)
    write_health(job)
    make_clean_view(job.model.path, folder.model_view, config=job.family.clean_config(job.model.folder.config))
    remove_leftovers(folder.train)
    for note in set_broken_aside(folder.train):
        LOG.info("broken    %s", note)
    last = find_last_checkpoint(folder.train)
    was_asked_to_stop = False
    if last is None or not is_end(last, num_steps=worker.num_steps):
        if last is not None:
            LOG.info("resume    %s", check_can_continue(last, worker) or last.name)
            plan = _resumed(plan, last)
        elif start is not None:
            publish_adapter(start.folder, folder.start, contract=start.contract, recipe=dump_recipe(start.recipe))
        if worker.cache_key is not None:
            repair_store(FeatureStore(worker.features_root, worker.cache_key))
        write_whole(folder.plan_file, plan.to_json())
        write_manifest(job, prepared=prepared, plan=plan, start=start)
        LOG.info(describe_plan(plan, prepared))
        with tracking(job.recipe.train.report_to, folder, shell=os.environ):
            last = _launch(plan, folder, variables=variables)
        was_asked_to_stop = (folder.train / STOP_FILE).exists()
    notes = write_notes(last, folder.notes_file)
    chosen = choose_adapter(folder, recipe=job.recipe, last=last, num_steps=worker.num_steps)
    write_whole(folder.chosen_file, chosen.to_json())
    recipe = folder.recipe_file.read_text(encoding="utf-8")
    publish_adapter(folder.train / f"checkpoint-{chosen.step}", folder.adapter, contract=job.contract, recipe=recipe)
    for line in describe_choice(chosen):
        LOG.info(line)
    for note in notes:
        LOG.warning("note      %s", note)
    if was_asked_to_stop:
        # it came with the last step, so nothing is left to train; what would follow can take hours all the same
        raise StoppedError(
            f"asked to stop, after the last step: {last.name} is saved; the same command goes on from it"
        )


def _launch(plan: Plan, folder: RunFolder, *, variables: Mapping[str, str]) -> Path:
    """Runs the worker and returns the checkpoint of the last step."""
    stop_file = folder.train / STOP_FILE
    for file in (folder.train / LOG_FILE, folder.answers_file):
        drop_torn_line(file)  # this training's lines follow, and would make it one that nobody can read
    try:
        launch(
            plan.launch.command,
            variables=variables,
            folder=folder,
            num_steps=plan.worker.num_steps,
            may_end_early=plan.worker.num_nodes == 1,
        )
    except RunError:
        # a scheduler that signals every process also ends torch's launcher, whose exit code then says nothing
        if has_no_space(folder.train):
            # the worker may not even have been able to write why it ended
            raise disk_full_error(folder.train) from None
        if not (stop_file.exists() and _last_reported_step(folder) <= _last_saved_step(folder)):
            raise
    last = find_last_checkpoint(folder.train)
    if last is not None and is_end(last, num_steps=plan.worker.num_steps):
        return last
    if stop_file.exists():
        saved = f"{last.name} is saved" if last is not None else "it had done no step yet"
        raise StoppedError(f"the training was asked to stop: {saved}; the same command continues it")
    got = "no checkpoint" if last is None else f"{last.name} as the last one"
    raise RunError("the training", [Problem(str(folder.train), got, f"checkpoint-{plan.worker.num_steps}")])


def _last_saved_step(folder: RunFolder) -> int:
    last = find_last_checkpoint(folder.train)
    return step_of(last) if last is not None else 0


def _last_reported_step(folder: RunFolder) -> int:
    reports = [json.loads(line) for line in read_new_lines(folder.progress_file, start=0)]
    return max((int(report["step"]) for report in reports if "step" in report), default=0)


def _resumed(plan: Plan, checkpoint: Path) -> Plan:
    return dataclasses.replace(plan, swift={**plan.swift, "resume_from_checkpoint": str(checkpoint)})


def _prepare_with_progress(job: Job) -> PreparedRows:
    with counting_clips() as show:
        return prepare(job, on_progress=show)
