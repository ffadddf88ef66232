"""`cvft plan`: what a training would do, take and refuse, from rows, config.json and tokenizer. No weights, no GPU, no torch.

recipe -> rows and a sample of the clips -> the plan that training would follow -> passes, memory, FLOPs, time -> `Forecast`

Token counts are those of the real layout. Memory and time come from a model (`cvft.engine.costs`), not from a measurement.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from cvft.data.check import ClipCheck, check_clips
from cvft.data.features.key import FeatureKey
from cvft.data.rows import Row
from cvft.data.video.loader import DecodeSettings
from cvft.errors import CvftError, Problem, did_you_mean, quote
from cvft.families.cogvlm2_video.flops import (
    LANGUAGE_UTILISATION,
    TOWER_UTILISATION,
    Batch,
    Flops,
    build_flops,
    estimated_seconds,
    feature_bytes,
    training_flops,
)
from cvft.families.cogvlm2_video.memory import Memory
from cvft.plan.batching import describe_training, peak_of
from cvft.plan.gpus import GPUS, Gpu, find_gpu
from cvft.plan.machine import GpuFacts, check_packages, memory_per_rank, read_gpus
from cvft.plan.passes import batches_of_epoch
from cvft.plan.plan import Plan, compile_plan
from cvft.plan.prepare import PreparedRows, find_model, inspect_model, prepare_rows
from cvft.plan.ranks import Ranks, decide_ranks
from cvft.recipe import Recipe
from cvft.train.launch import merge_environment

MAX_CLIPS_READ = 300
"""Clips that are decoded for a plan; of more, a sample stands for all."""


@dataclass(frozen=True)
class Forecast:
    """What a training would do.

    Args:
        plan: What it would follow.
        prepared: Rows and clips.
        num_clips_read: Distinct clips that were decoded; the lengths of the others are assumed to be like theirs.
        num_clips: Distinct clips of all rows.
        ranks: Where it would run.
        gpu: The GPU that time is estimated for, or None.
        memory_bytes: What each rank's device has, or None.
        batches: The passes of the first epoch, over all ranks.
        flops: Their FLOPs, and those of recomputation.
        memory: The pass that needs most.
        num_trained: Trainable parameters.
        build: FLOPs of encoding each clip once, or None where features are not kept.
        refused: What would be refused on this machine.
    """

    plan: Plan
    prepared: PreparedRows
    num_clips_read: int
    num_clips: int
    ranks: Ranks
    gpu: Gpu | None
    memory_bytes: int | None
    batches: Sequence[Batch]
    flops: Flops
    memory: Memory
    num_trained: int
    build: Flops | None
    refused: Sequence[Problem]

    @property
    def feature_bytes(self) -> int:
        """Size of all clips' features."""
        dtype_bytes = {"BF16": 2, "F32": 4}[self.plan.features.dtype] if self.plan.features else 0
        return feature_bytes(self.prepared.model.architecture, self.num_frames, dtype_bytes=dtype_bytes)

    @property
    def num_frames(self) -> int:
        """Frames of all clips together."""
        rows = self.prepared.row_facts
        return sum({shape.clip: shape.num_frames for shape in (*rows.train, *rows.val)}.values())

    @property
    def epoch_s(self) -> float | None:
        """Estimated seconds of an epoch, without val passes; None when no GPU is named."""
        if self.gpu is None:
            return None
        tower = estimated_seconds(self.flops.tower, self.gpu, utilisation=TOWER_UTILISATION)
        rest = estimated_seconds(self.flops.total - self.flops.tower, self.gpu, utilisation=LANGUAGE_UTILISATION)
        return (tower + rest) / self.ranks.num

    @property
    def build_s(self) -> float | None:
        """Estimated seconds of encoding each clip once, by all ranks."""
        if self.gpu is None or self.build is None:
            return None
        return estimated_seconds(self.build.total, self.gpu, utilisation=TOWER_UTILISATION) / self.ranks.num


def forecast(
    recipe: Recipe,
    *,
    gpu_name: str | None = None,
    max_clips: int = MAX_CLIPS_READ,
    on_progress: Callable[[int, int], None] | None = None,
) -> Forecast:
    """Plans a training without starting anything.

    Args:
        recipe: The recipe; its `name` must be set.
        gpu_name: GPU to plan for; None takes those of this machine.
        max_clips: Most clips to decode.
        on_progress: Called with clips done and clips in all.

    Returns:
        The forecast; what this machine would refuse is part of it.

    Raises:
        CvftError: when model, rows or clips do not allow any training, or when the GPU is not known.
    """
    ranks, gpus, notes = _decide_machine(recipe, gpu_name)
    model = inspect_model(find_model(recipe, needs_weights=False).folder)
    sample = _Sample(recipe, max_clips=max_clips, on_progress=on_progress)
    prepared = prepare_rows(recipe, model=model, check=sample.check)
    prepared = replace(prepared, notes=[*prepared.notes, *notes])
    memory_bytes = memory_per_rank(ranks, gpus) if ranks.device == "cpu" or gpus else None
    feeding = prepared.feeding

    def feature_key(device: str) -> FeatureKey:
        return FeatureKey(
            sampling=feeding.sampling,
            max_frames=feeding.max_frames,
            decoder=recipe.video.decoder,
            decoder_version="",
            image_size_px=model.image_size,
            tower_sha256="",
            dtype={"bf16": "BF16", "fp32": "F32"}[recipe.model.dtype],
            device=device,
            attention="sdpa",
        )

    plan = compile_plan(
        recipe,
        model=model,
        rows=prepared.row_facts,
        num_gpus_present=ranks.num_per_node if ranks.device == "cuda" else 0,
        feature_key=feature_key,
        memory_bytes=memory_bytes,
    )
    caches = plan.features is not None
    batches = batches_of_epoch(
        prepared.row_facts.train, limits=plan.limits, num_ranks=ranks.num, seed=recipe.seed, caches=caches
    )
    training = describe_training(
        recipe,
        model,
        caches=caches,
        num_ranks=ranks.num,
        recompute=plan.swift_arguments["gradient_checkpointing"],
    )
    memory = peak_of(model.architecture, batches, training)
    if ranks.device == "cpu":
        memory = replace(memory, context=0)
    result = Forecast(
        plan=plan,
        prepared=prepared,
        num_clips_read=sample.num_read,
        num_clips=len({shape.clip for shape in (*prepared.row_facts.train, *prepared.row_facts.val)} - {None}),
        ranks=ranks,
        gpu=find_gpu(gpus[0].name) if gpus and ranks.device == "cuda" else None,
        memory_bytes=memory_bytes,
        batches=batches,
        flops=_sum_flops(
            [
                training_flops(
                    model.architecture,
                    batch,
                    adapter=training.adapter,
                    adapted=training.adapted,
                    recompute=training.recompute,
                )
                for batch in batches
            ]
        ),
        memory=memory,
        num_trained=training.adapter.total,
        build=None,
        refused=_find_refusals(recipe, plan, memory=memory, memory_bytes=memory_bytes),
    )
    return replace(result, build=build_flops(model.architecture, result.num_frames) if caches else None)


def _decide_machine(recipe: Recipe, gpu_name: str | None) -> tuple[Ranks, list[GpuFacts], list[str]]:
    """Returns the ranks to plan for, their GPUs (none when they are not known), and a note where this machine differs."""
    parallel, present = recipe.parallel, read_gpus()
    asked = parallel.num_gpus if parallel.strategy != "single" and parallel.num_gpus != "auto" else 1
    if gpu_name is not None:
        gpu = find_gpu(gpu_name)
        if gpu is None:
            names = [each.name for each in GPUS]
            need = f"one of {', '.join(map(quote, names))}"
            raise CvftError("command line", [Problem("--gpu", quote(gpu_name), need, did_you_mean(gpu_name, names))])
        if parallel.device == "cpu":
            got = f"{quote(gpu.name)} for a recipe with `parallel.device` cpu"
            raise CvftError("command line", [Problem("--gpu", got, "no GPU", "set parallel.device=auto")])
        num_gpus = max(asked, len(present)) if parallel.num_gpus == "auto" else asked
        gpus = [GpuFacts(gpu.name, gpu.memory_bytes)] * num_gpus
        return decide_ranks(recipe, num_gpus_present=num_gpus), gpus, []
    if present or parallel.device == "cpu" or (parallel.device == "auto" and parallel.strategy == "single"):
        return decide_ranks(recipe, num_gpus_present=len(present)), present, []
    note = f"this machine has no GPU; planned for {asked} of a kind that is not known (--gpu names one)"
    return decide_ranks(recipe, num_gpus_present=asked), [], [note]


class _Sample:
    """Decodes some of the clips, and takes the others to be like them."""

    def __init__(
        self, recipe: Recipe, *, max_clips: int, on_progress: Callable[[int, int], None] | None = None
    ) -> None:
        self.recipe = recipe
        self.max_clips = max_clips
        self.on_progress = on_progress
        self.num_read = 0

    def check(self, rows: Sequence[Row], decode: DecodeSettings) -> ClipCheck:
        """Finds out about the clips of rows; bad clips among those that are read are told."""
        paths = sorted({row.video for row in rows if row.video is not None})
        chance = random.Random(f"clips {self.recipe.seed}")
        chosen = set(paths if len(paths) <= self.max_clips else chance.sample(paths, self.max_clips))
        self.num_read = len(chosen)
        checked = check_clips(
            [row for row in rows if row.video is None or row.video in chosen],
            sampling=decode.sampling,
            decoder=decode.decoder,
            on_bad_clip="error",
            timeout_s=decode.timeout_s,
            memory_limit_gib=decode.memory_gib,
            on_progress=self.on_progress,
        )
        read = list(checked.facts.values())
        others = {
            path: replace(chance.choice(read), sha256=str(path), notes=()) for path in paths if path not in chosen
        }
        return ClipCheck(list(rows), [], {**checked.facts, **others})


def _find_refusals(recipe: Recipe, plan: Plan, *, memory: Memory, memory_bytes: int | None) -> list[Problem]:
    """Collects what training would refuse on this machine, and a memory that the model says is too small."""
    problems: list[Problem] = []
    for check in (
        lambda: check_packages(recipe),
        lambda: merge_environment(plan.environment, os.environ),
    ):
        try:
            check()
        except CvftError as error:
            problems += error.problems
    if memory_bytes is not None and memory.peak > memory_bytes:
        got = f"{memory.peak / 2**30:.1f} GiB by the memory model"
        need = f"at most the {memory_bytes / 2**30:.1f} GiB that each rank's device has"
        hint = (
            "train.gradient_checkpointing=true, a smaller train.micro_batch_rows or train.max_rows_per_group, or ZeRO-3"
        )
        problems.append(Problem("memory", got, need, hint))
    return problems


def _sum_flops(parts: Sequence[Flops]) -> Flops:
    names = ("tower", "projector", "language", "attention", "output_layer", "adapter")
    return Flops(**{name: sum(getattr(part, name) for part in parts) for name in names})
