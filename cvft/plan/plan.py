"""The plan: a job and the shapes of its rows become everything that a training will do.

`Job` + `RowFacts` -> `Plan`: what the worker computes | arguments of ms-swift | command and environment

Pure: no GPU asked, neither torch nor ms-swift imported, and no file read but a DeepSpeed configuration of the user's own. Every
environment variable that the worker gets is stated here too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from cvft.data.features.key import FeatureKey
from cvft.data.packing import BatchLimits
from cvft.data.video.loader import DEFAULT_CACHE_BYTES
from cvft.errors import Problem, RecipeError, quote
from cvft.families.family import Preprocessing
from cvft.families.proof import Proofs
from cvft.families.runtime import Loading
from cvft.plan.batching import RowFacts, count_steps, decide_limits, decide_recompute, trains_tower
from cvft.plan.caching import decide_cache
from cvft.plan.environment import worker_environment
from cvft.plan.job import Job
from cvft.plan.passes import batches_of_epoch
from cvft.plan.ranks import worker_command
from cvft.plan.swift_arguments import swift_arguments
from cvft.recipe import Recipe

PLANNED: Literal["planned"] = "planned"
"""Stands for a key of features where weights were not looked at."""


@dataclass(frozen=True)
class AnswerPlan:
    """Which val rows are answered whenever the val loss is measured.

    Args:
        num_rows: How many, spread over all val rows.
        batch_rows: Rows answered at a time.
        max_new_tokens: Longest answer in tokens.
    """

    num_rows: int
    batch_rows: int
    max_new_tokens: int


@dataclass(frozen=True)
class WorkerPlan:
    """What the worker computes.

    Args:
        run_dir: The run's folder.
        model_view: Clean view of the model folder that ms-swift opens.
        family: Name of the model's family.
        preprocessing: How rows reach the model.
        loading: How its weights are loaded.
        clip_cache_bytes: Most bytes of decoded clips kept per process; benchmarks keep none for comparison.
        features: Key of the vision features that are computed once and cached, or None to encode clips as they come.
        features_root: Folder of the stores of features and pixels.
        device: `cpu` or `cuda`.
        strategy: How the work is spread over the ranks.
        num_ranks: Processes, over all nodes.
        num_nodes: Machines.
        limits: Which rows go together in a step, a group and a micro-batch.
        label_logits_only: Whether only label tokens get logits; benchmarks compute all of them for comparison.
        num_steps: Optimizer steps of the whole training.
        steps_per_epoch: Optimizer steps of one pass over the rows.
        keep_checkpoints: Newest checkpoints that stay; the best stays as well.
        max_skipped_steps: Steps that may be left out because their loss or gradient is not finite.
        select_by: What makes a checkpoint the best one.
        early_stop_evals: Measurements in a row that may be no better by that, or None for as many as there are.
        asked_checkpoint: Step of a checkpoint that stays in any case, or None.
        answers: Which val rows are answered while it trains, or None.
        pixels: Key of the pixels that are decoded once and kept in place of features, or None.
    """

    run_dir: Path
    model_view: Path
    family: str
    preprocessing: Preprocessing
    loading: Loading
    clip_cache_bytes: int
    features: FeatureKey | Literal["planned"] | None
    features_root: Path
    device: str
    strategy: str
    num_ranks: int
    num_nodes: int
    limits: BatchLimits
    label_logits_only: bool
    num_steps: int
    steps_per_epoch: int
    keep_checkpoints: int
    max_skipped_steps: int
    select_by: str
    early_stop_evals: int | None
    asked_checkpoint: int | None
    answers: AnswerPlan | None
    pixels: FeatureKey | None = None

    @property
    def cache_key(self) -> FeatureKey | None:
        """The key of what is kept of clips, or None where they are decoded as they come; a forecast has none of features."""
        return self.features if isinstance(self.features, FeatureKey) else self.pixels


@dataclass(frozen=True)
class Launch:
    """How the worker is started.

    Args:
        command: The words of its command.
        environment: Variables that it gets beyond the shell's own.
    """

    command: tuple[str, ...]
    environment: Mapping[str, str]


@dataclass(frozen=True)
class Plan:
    """Everything that a training will do; the file of it is what the worker reads.

    Args:
        worker: What the worker computes.
        swift: Arguments of ms-swift's `SftArguments`.
        launch: How the worker is started.
    """

    worker: WorkerPlan
    swift: Mapping[str, Any]
    launch: Launch

    def to_json(self) -> str:
        """Returns the text of `plan.json`."""
        return PLAN.dump_json(self, indent=2).decode() + "\n"

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Reads back what `to_json` wrote."""
        return PLAN.validate_json(text)


NO_PROOFS = Proofs()

PLAN = TypeAdapter(Plan)
"""Writes and reads plans."""


def compile_plan(job: Job, rows: RowFacts, *, proofs: Proofs = NO_PROOFS) -> Plan:
    """Compiles a job into the plan of its training.

    Args:
        job: The job.
        rows: Facts of the rows that will train.
        proofs: What was found on this model, for a family that promises neither groups nor features for all.

    Returns:
        The plan.

    Raises:
        RecipeError: when the recipe cannot run on these rows or this machine.
    """
    recipe, ranks, run = job.recipe, job.ranks, job.run
    limits = decide_limits(job, rows=rows, proof=proofs.groups)
    steps = count_steps(job, rows)
    num_steps, steps_per_epoch = steps
    cache = decide_cache(job, rows=rows, limits=limits, num_epochs=steps.epochs, proof=proofs.features)
    caches = cache.kind == "features"
    batches = batches_of_epoch(
        rows.train, limits=limits, num_ranks=ranks.num, seed=recipe.seed, caches=caches, mix=rows.mix
    )
    recompute = decide_recompute(job, batches=batches, caches=caches)
    arguments = swift_arguments(
        job, recompute=recompute, steps_per_epoch=steps_per_epoch, num_steps=num_steps, has_val=len(rows.val) > 0
    )
    features: FeatureKey | Literal["planned"] | None = None
    if caches:
        features = PLANNED if job.model.shards is None else job.feature_key
    worker = WorkerPlan(
        run_dir=run.path,
        model_view=run.model_view,
        family=job.family.name,
        preprocessing=job.preprocessing,
        loading=Loading(
            dtype=recipe.model.dtype,
            attention=arguments["attn_impl"],
            quantize=recipe.model.quantize,
            embeddings_on_cpu=recipe.model.embeddings_on_cpu,
            with_tower=not caches,
            # one process too: a gradient of zero and none at all are not the same to AdamW. ZeRO-3 gathers even a frozen tower
            runs_tower_always=trains_tower(recipe) or recipe.parallel.strategy == "zero3",
        ),
        clip_cache_bytes=DEFAULT_CACHE_BYTES,
        features=features,
        features_root=job.features_root,
        device=ranks.device,
        strategy=recipe.parallel.strategy,
        num_ranks=ranks.num,
        num_nodes=ranks.num_nodes,
        limits=limits,
        label_logits_only=True,
        num_steps=num_steps,
        steps_per_epoch=steps_per_epoch,
        keep_checkpoints=recipe.train.keep_checkpoints,
        max_skipped_steps=recipe.train.max_skipped_steps,
        select_by=recipe.train.select_by,
        early_stop_evals=recipe.train.early_stop_evals,
        asked_checkpoint=recipe.export.checkpoint if isinstance(recipe.export.checkpoint, int) else None,
        answers=_plan_answers(recipe, num_val=len(rows.val)),
        pixels=job.pixel_key if cache.kind == "pixels" else None,
    )
    _check_choice(recipe, num_steps=num_steps, save_steps=arguments["save_steps"], eval_steps=arguments["eval_steps"])
    environment = worker_environment(
        run.path,
        num_threads=recipe.parallel.num_threads,
        of_family=job.family.environment(job.preprocessing),
    )
    command = worker_command(
        recipe, num_per_node=ranks.num_per_node, node_rank=recipe.parallel.node_rank or 0, plan_file=run.plan_file
    )
    return Plan(worker, arguments, Launch(command, environment))


def _plan_answers(recipe: Recipe, *, num_val: int) -> AnswerPlan | None:
    if recipe.train.eval_answers is None or not num_val:
        return None
    num_rows = min(recipe.train.eval_answers, num_val)
    return AnswerPlan(num_rows, recipe.eval.batch_rows, recipe.eval.max_new_tokens)


def _check_choice(recipe: Recipe, *, num_steps: int, save_steps: int, eval_steps: int) -> None:
    """Refuses to choose a checkpoint that is not written, or the best one where some that are measured are not."""
    asked = recipe.export.checkpoint
    if asked == "best" and eval_steps % save_steps:
        got = f"one every {save_steps} steps, and the val loss is measured every {eval_steps}"
        need = "a checkpoint wherever it is measured how good it is, for `export.checkpoint` best"
        problem = Problem("train.save_steps", got, need, f"set `train.save_steps: {eval_steps}`")
        raise RecipeError("the steps with a checkpoint", [problem])
    if isinstance(asked, int) and (asked > num_steps or (asked != num_steps and asked % save_steps)):
        need = f"a multiple of {save_steps} (train.save_steps) below {num_steps}, or {num_steps}, the last step"
        problem = Problem("export.checkpoint", quote(asked), need, "`best` and `last` need no number")
        raise RecipeError("the steps with a checkpoint", [problem])
