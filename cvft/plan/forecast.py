"""`cvft plan`: what a training would do, take and refuse, from rows, config.json and tokenizer. No weights, no GPU, no torch.

recipe -> rows and a sample of the clips -> the plan of the training -> micro-batches, memory, FLOPs, time -> `Forecast`

Token counts are those of the real layout. Memory and time come from a model (`Family.costs`), not from a measurement.
"""

from __future__ import annotations

import os
import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from cvft.data.catalog import ClipCatalog
from cvft.data.check import ClipCheck, check_clips, look_at_clips
from cvft.data.rows import Row
from cvft.data.video.looks import ClipLooks
from cvft.data.video.process import ClipInfo
from cvft.data.video.spec import ClipRef, ClipSpec, file_of, sort_key, whole_of
from cvft.errors import CvftError, DataError, Problem, did_you_mean, quote
from cvft.families.costs import Batch, ClipShape, CostModel, Flops, Memory
from cvft.families.parts import count_parameters
from cvft.families.proof import Proofs, Wanted
from cvft.plan.batching import (
    clips_of,
    count_steps,
    describe_training,
    peak_of,
)
from cvft.plan.caching import CacheDecision, decide_cache
from cvft.plan.environment import check_shell, find_overruled
from cvft.plan.gpus import GPUS, Gpu, find_gpu
from cvft.plan.job import Job, check_batch, open_job
from cvft.plan.machine import GpuFacts, Machine, check_output, check_packages, read_machine
from cvft.plan.passes import batches_of_epoch
from cvft.plan.plan import Plan, compile_plan
from cvft.plan.prepare import PreparedRows, prepare_rows
from cvft.plan.proofs import find_proofs, wanted_proofs
from cvft.plan.ranks import Ranks, decide_ranks
from cvft.recipe import LoadedRecipe, Recipe

STOCK_UTILISATION = 0.40
LANGUAGE_UTILISATION = 0.45
TOWER_UTILISATION = 0.50
"""Assumed shares of a GPU's peak that stock training, the decoder alone and the tower alone reach; not measured by us.

Source: reported end-to-end numbers, not reproduced: NeMo AutoModel, LoRA of Llama-3 8B on an H100, 40.6 % and Qwen2.5-7B
42.8 %; a plain matmul reaches 80 % there, 86 % on an A100 (stas00/ml-engineering). The tower has no small products.
"""

MAX_CLIPS_READ = 300
"""Clips that are decoded for a plan; of more, a sample stands for all."""


@dataclass(frozen=True)
class Forecast:
    """What a training would do.

    Args:
        job: The job, planned without weights.
        plan: What it would follow.
        prepared: Rows and clips.
        num_clips_read: Clips that were decoded; the lengths of the others are assumed to be like theirs.
        num_clips: Clips of all rows, bad ones among them.
        gpu: The GPU that time is estimated for, or None.
        batches: The micro-batches of the first epoch, over all ranks.
        costs: The family's formulas, or None where nothing is modelled; then the numbers that follow are None too.
        flops: FLOPs of the micro-batches, and those of recomputation.
        memory: The micro-batch that needs most.
        cache: What is kept of clips, and why.
        notes: Sentences about where this machine differs from the planned one.
        refused: What would be refused on this machine.
    """

    job: Job
    plan: Plan
    prepared: PreparedRows
    num_clips_read: int
    num_clips: int
    gpu: Gpu | None
    batches: Sequence[Batch]
    costs: CostModel | None
    flops: Flops | None
    memory: Memory | None
    cache: CacheDecision
    notes: Sequence[str]
    refused: Sequence[Problem]

    @property
    def ranks(self) -> Ranks:
        """Where it would run."""
        return self.job.ranks

    @property
    def memory_bytes(self) -> int | None:
        """What each rank's device has, or None."""
        return self.job.memory_bytes

    @property
    def is_estimated(self) -> bool:
        """Whether the lengths of texts are estimated, for want of the model's tokenizer, and with them all that follows."""
        return self.job.model.folder.is_absent

    @property
    def num_trained(self) -> int | None:
        """Trainable parameters; None where neither family nor files say what there is."""
        return self.job.adapter_parameters.total if self.job.model.shapes else None

    @property
    def num_parameters(self) -> int | None:
        """Parameters of the whole model; None where neither family nor files say what there is."""
        shapes = self.job.model.shapes
        return count_parameters(self.job.family.parts, shapes).total if shapes else None

    @property
    def build(self) -> Flops | None:
        """FLOPs of encoding each clip once, or None where features are not cached."""
        if self.costs is None or self.plan.worker.features is None:
            return None
        return self.costs.build_flops(self.clips)

    @property
    def saved_share(self) -> float | None:
        """Share of the FLOPs of the training that cached features save, or would; None where FLOPs are not modelled."""
        rows, worker = self.prepared.row_facts, self.plan.worker
        if self.costs is None or not self.cache.feature_bytes:
            return None
        num_epochs = worker.num_steps / worker.steps_per_epoch
        totals = []
        for caches in (False, True):
            batches = batches_of_epoch(
                rows.train,
                limits=worker.limits,
                num_ranks=self.ranks.num,
                seed=self.job.recipe.seed,
                caches=caches,
                mix=rows.mix,
            )
            training = describe_training(self.job, caches=caches, recompute=self.plan.swift["gradient_checkpointing"])
            totals.append(num_epochs * sum(self.costs.training_flops(batch, training).total for batch in batches))
        live, cached = totals
        return 1 - (cached + self.costs.build_flops(self.clips).total) / live

    @property
    def clips(self) -> list[ClipShape]:
        """All clips."""
        return clips_of(self.prepared.row_facts)

    @property
    def num_frames(self) -> int:
        """Frames of all clips together."""
        return sum(clip.num_frames for clip in self.clips)

    @property
    def epoch_s(self) -> float | None:
        """Estimated seconds of an epoch, without measuring the val loss; None when no GPU is named."""
        if self.gpu is None or self.flops is None:
            return None
        tower = estimated_seconds(self.flops.tower, self.gpu, utilisation=TOWER_UTILISATION)
        rest = estimated_seconds(self.flops.total - self.flops.tower, self.gpu, utilisation=LANGUAGE_UTILISATION)
        return (tower + rest) / self.ranks.num

    @property
    def build_s(self) -> float | None:
        """Estimated seconds of encoding each clip once, by all ranks."""
        build = self.build
        if self.gpu is None or build is None:
            return None
        return estimated_seconds(build.total, self.gpu, utilisation=TOWER_UTILISATION) / self.ranks.num


UNPROVEN: Mapping[Wanted, str] = {
    "groups": (
        "rows of one clip are planned apart: whether this model may train them together is proven on it when it trains, and a "
        "model that may needs fewer tokens than these numbers say"
    ),
    "features": (
        "no cached features are planned: whether this model has the same losses from them is proven on it when it trains"
    ),
}


def estimated_seconds(flops: int, gpu: Gpu, *, utilisation: float) -> float:
    """Estimates how long a GPU computes; an assumption divided by a data sheet, so good for orders and comparisons.

    Args:
        flops: Floating-point operations.
        gpu: The GPU.
        utilisation: Share of its peak that is reached; see the constants of this module.

    Returns:
        Seconds, without decoding, loading and talk between ranks.
    """
    return flops / (gpu.bf16_flops_per_s * utilisation)


def forecast(
    loaded: LoadedRecipe,
    *,
    gpu_name: str | None = None,
    max_clips: int = MAX_CLIPS_READ,
    on_progress: Callable[[int, int], None] | None = None,
) -> Forecast:
    """Plans a training without starting anything.

    Args:
        loaded: The recipe; its `name` must be set.
        gpu_name: GPU to plan for; None takes those of this machine.
        max_clips: Most clips to decode.
        on_progress: Called with clips done and clips in all.

    Returns:
        The forecast; what this machine would refuse is part of it.

    Raises:
        CvftError: when model, rows or clips do not allow any training, or when the GPU is not known.
    """
    recipe = loaded.recipe
    machine, ranks, notes = decide_machine(recipe, gpu_name)
    job = open_job(loaded, needs_weights=False, machine=machine, ranks=ranks)
    check_batch(recipe, ranks)
    if job.model.folder.is_absent:
        notes.append(
            f"no file of {job.model.source.model_id} is here and its hub does not answer: planned from what is known of it. Text "
            "lengths are estimated (English on the whole within 10 %, other languages within half), and all that is `about` "
            "with them; clips' tokens are exact"
        )
    sample = _Sample(job, max_clips=max_clips, on_progress=on_progress)
    prepared = prepare_rows(job, check=sample.check, look=sample.look)
    proofs = Proofs()
    if wanted := wanted_proofs(job, rows=prepared.row_facts):
        found = find_proofs(
            job,
            wanted,
            rows=prepared.train_rows,
            shapes=prepared.row_facts.train,
            clips=prepared.clips,
        )
        proofs = found or proofs
        notes += [str(proofs.of(each) or UNPROVEN[each]) for each in wanted]
    plan = compile_plan(job, prepared.row_facts, proofs=proofs)
    caches = plan.worker.features is not None
    batches = batches_of_epoch(
        prepared.row_facts.train,
        limits=plan.worker.limits,
        num_ranks=ranks.num,
        seed=recipe.seed,
        caches=caches,
        mix=prepared.row_facts.mix,
    )
    costs = job.family.costs(job.model.folder.config)
    flops = memory = None
    if costs is not None:
        training = describe_training(job, caches=caches, recompute=plan.swift["gradient_checkpointing"])
        memory = peak_of(costs, batches, training)
        flops = _sum_flops([costs.training_flops(batch, training) for batch in batches])
        if ranks.device == "cpu":
            memory = replace(memory, context=0)
    return Forecast(
        job=job,
        plan=plan,
        prepared=prepared,
        num_clips_read=sample.num_read,
        num_clips=sample.num_all,
        gpu=find_gpu(machine.gpus[0].name) if machine.gpus and ranks.device == "cuda" else None,
        batches=batches,
        costs=costs,
        flops=flops,
        memory=memory,
        cache=decide_cache(
            job,
            rows=prepared.row_facts,
            limits=plan.worker.limits,
            num_epochs=count_steps(job, prepared.row_facts).epochs,
            proof=proofs.features,
        ),
        notes=[*notes, *find_overruled(plan.launch.environment, os.environ)],
        refused=_find_refusals(job, memory=memory),
    )


def decide_machine(recipe: Recipe, gpu_name: str | None) -> tuple[Machine, Ranks, list[str]]:
    """Returns the machine and the ranks to plan for, and a note where this machine differs.

    Args:
        recipe: The recipe.
        gpu_name: A GPU to plan for, or None for what is here.

    Raises:
        CvftError: when there is no such GPU, or the recipe asks for other ranks.
    """
    parallel, here = recipe.parallel, read_machine()
    present = len(here.gpus)
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
        num_gpus = max(asked, present) if parallel.num_gpus == "auto" else asked
        gpus = (GpuFacts(gpu.name, gpu.memory_bytes),) * num_gpus
        return replace(here, gpus=gpus), decide_ranks(recipe, num_gpus_present=num_gpus), []
    if present or parallel.device == "cpu" or (parallel.device == "auto" and parallel.strategy == "single"):
        return here, decide_ranks(recipe, num_gpus_present=present), []
    note = f"this machine has no GPU; planned for {asked} of a kind that is not known (--gpu names one)"
    return replace(here, gpus=()), decide_ranks(recipe, num_gpus_present=asked), [note]


class _Sample:
    """Decodes some of the clips, and takes the others to be like them."""

    def __init__(self, job: Job, *, max_clips: int, on_progress: Callable[[int, int], None] | None = None) -> None:
        self.job = job
        self.max_clips = max_clips
        self.on_progress = on_progress
        self.num_read = self.num_all = 0
        self.found: Mapping[ClipRef, ClipInfo] = {}

    def check(self, rows: Sequence[Row]) -> ClipCheck:
        """Finds out about the clips of rows; bad clips among those that are read are refused or set aside."""
        decode = self.job.preprocessing.decode
        clips = sorted({clip for row in rows for clip in row.videos}, key=sort_key)
        chance = random.Random(f"clips {self.job.recipe.seed}")
        chosen = set(clips)
        if len(clips) > self.max_clips:
            shown = sorted({row.videos for row in rows if row.videos}, key=lambda each: list(map(sort_key, each)))
            num_rows = max(1, self.max_clips // max(map(len, shown)))
            chosen = {clip for each in chance.sample(shown, min(num_rows, len(shown))) for clip in each}
        self.num_read, self.num_all = len(chosen), len(clips)
        with ClipCatalog(self.job.clips_root, decode) as catalog:
            checked = check_clips(
                [row for row in rows if chosen.issuperset(row.videos)],
                sampling=decode.sampling,
                decoder=decode.decoder,
                on_bad_clip=self.job.recipe.data.on_bad_clip,
                timeout_s=decode.timeout_s,
                memory_limit_gib=decode.memory_gib,
                num_workers=self.job.recipe.data.check_workers,
                catalog=catalog,
                cache=self.job.url_cache,
                on_progress=self.on_progress,
            )
        self.found = checked.facts
        set_aside = {id(item.row) for item in checked.quarantined}
        kept = [row for row in rows if id(row) not in set_aside]
        needed = {clip for row in kept for clip in row.videos} - checked.facts.keys()
        read, unread = list(checked.facts.values()), [clip for clip in clips if clip in needed]
        if unread and not read:
            need = f"one that decodes, to stand for the {len(unread)} that were not read"
            hint = "decode more of them (--clips), or repair them"
            problem = Problem("the clips", f"{len(chosen)} that are all bad", need, hint)
            raise DataError("the check of clips", [problem])
        of_budget: dict[object, list[ClipInfo]] = defaultdict(list)
        for clip, info in checked.facts.items():
            of_budget[_budget_of(clip)].append(info)
        others = {
            clip: replace(chance.choice(of_budget.get(_budget_of(clip)) or read), sha256=str(file_of(clip)), notes=())
            for clip in unread
        }
        return ClipCheck(kept, checked.quarantined, {**checked.facts, **others})

    def look(self, contents: Mapping[ClipRef, str]) -> Mapping[ClipRef, ClipLooks]:
        """Finds out what those clips look like that were decoded."""
        decode, read = self.job.preprocessing.decode, set(map(whole_of, self.found))
        with ClipCatalog(self.job.clips_root, decode) as catalog:
            asked = {clip: content for clip, content in contents.items() if clip in read}
            return look_at_clips(asked, decode=decode, num_workers=self.job.recipe.data.check_workers, catalog=catalog)


def _budget_of(clip: ClipRef) -> object:
    """Tells clips apart that are shown with other numbers of frames, and pictures from clips."""
    return (clip.max_frames, clip.fps, clip.is_image) if isinstance(clip, ClipSpec) else (None, None, False)


def _find_refusals(job: Job, *, memory: Memory | None) -> list[Problem]:
    """Collects what training would refuse on this machine, and a memory that the model says is too small."""
    problems: list[Problem] = []
    checks: tuple[Callable[[], None], ...] = (
        lambda: check_output(job.recipe, job.run, features_root=job.features_root),
        lambda: check_packages(job.recipe),
        lambda: check_shell(os.environ),
    )
    for check in checks:
        try:
            check()
        except CvftError as error:
            problems += error.problems
    memory_bytes = job.memory_bytes
    if memory_bytes is not None and memory is not None and memory.peak > memory_bytes:
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
