"""What a recipe leaves open about batches, decided from the job and its rows: groups, recomputation.

`Job` + `RowFacts` -> `BatchLimits`, yes or no. Pure, like the plan that is made of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pydantic import TypeAdapter

from cvft.data.groups import FileShare, RowShape, count_rows, most_rows_per_clip
from cvft.data.packing import BatchLimits
from cvft.dtypes import BY_NAME
from cvft.errors import Problem, RecipeError, quote
from cvft.families.costs import Batch, ClipShape, CostModel, Memory, Training
from cvft.families.family import LABEL_CHUNK_TOKENS
from cvft.families.parts import adapted_names
from cvft.families.proof import GroupProof
from cvft.plan.job import Job
from cvft.recipe import Recipe

MASKLESS_ATTENTION = ("flash_attention_2",)
"""Kernels that take no mask of ours, and so no groups."""

MAX_ROWS_PER_GROUP = 8
"""Rows of a clip that train together where the recipe does not say. With more, the prefix is a small part of a group already:
16 times as many would save another fifth."""

MIN_CLIPS_PER_STEP = 4
"""Clips that a step holds rows of, at the least, where the recipe does not say: rows of one clip say similar things."""

USABLE_SHARE = 0.9
"""Share of a device's memory that counted tensors may take: allocators lose some to fragments, kernels need some."""

NUM_LARGEST = 20
"""Longest micro-batches of an epoch among which the one that needs most memory is looked for."""


class Steps(NamedTuple):
    """How long a training is.

    Args:
        num: Optimizer steps of the whole training.
        per_epoch: Optimizer steps of one pass over the rows, each as often as its file's weight says.
    """

    num: int
    per_epoch: int

    @property
    def epochs(self) -> float:
        """Passes over the rows."""
        return self.num / self.per_epoch


@dataclass(frozen=True)
class RowFacts:
    """What the plan needs to know of the rows that will really train.

    Args:
        train: Shapes of the rows to train on.
        val: Shapes of the rows held out.
        mix: How often the train rows of each file come in an epoch; empty where each row comes once.
        pixel_bytes: What the frames of all their clips take as they are kept; 0 in what older runs recorded.
    """

    train: Sequence[RowShape]
    val: Sequence[RowShape]
    mix: Sequence[FileShare] = ()
    pixel_bytes: int = 0

    @property
    def num_per_epoch(self) -> int:
        """Train rows of an epoch, each as often as it comes."""
        return count_rows(len(self.train), self.mix)

    @property
    def max_row_tokens(self) -> int:
        """Longest row in tokens."""
        return max(shape.num_tokens for shape in (*self.train, *self.val))

    def to_json(self) -> str:
        """Returns the text of `row_shapes.json`."""
        return ROW_FACTS.dump_json(self).decode() + "\n"

    @classmethod
    def from_json(cls, text: str) -> RowFacts:
        """Reads back what `to_json` wrote."""
        return ROW_FACTS.validate_json(text)


ROW_FACTS = TypeAdapter(RowFacts)
"""Writes and reads row facts."""


def decide_limits(job: Job, *, rows: RowFacts, proof: GroupProof | None = None) -> BatchLimits:
    """Decides which rows go together.

    Args:
        job: The job.
        rows: Facts of the rows that will train.
        proof: What was found on this model, for a family whose groups have to be proven; without it, rows go apart.

    Returns:
        The limits.

    Raises:
        RecipeError: when groups are asked for, and no two rows share a clip, or the proof does not hold.
    """
    recipe, train, can_group = job.recipe, job.recipe.train, job.family.capabilities.groups
    shares_clips = most_rows_per_clip(rows.train) > 1
    asked = {"train.group_by_clip": train.group_by_clip == "on", "train.max_rows_per_group": train.max_rows_per_group}
    if not shares_clips and any(asked.values()):
        key = next(key for key, value in asked.items() if value)
        rest = "" if all(shape.has_question for shape in rows.train) else " with text between clip and answer"
        value = train.group_by_clip if key == "train.group_by_clip" else train.max_rows_per_group
        need, hint = f"rows that share a clip: every clip has one row{rest}", f"remove `{key}`"
        raise RecipeError("the recipe and its rows", [Problem(key, quote(value), need, hint)])
    if train.group_by_clip == "on" and proof is not None and not proof.holds:
        need = f"`auto` or `off`: {proof.finding}"
        raise RecipeError(f"recipe {recipe.name}", [Problem("train.group_by_clip", "`on`", need)])
    is_shown = can_group is True or (can_group == "proven" and proof is not None and proof.holds)
    has_groups = is_shown and recipe.model.attention not in MASKLESS_ATTENTION
    takes_groups = has_groups and train.group_by_clip != "off"
    max_rows = 1
    if shares_clips and takes_groups:
        by_diversity = train.global_batch_rows // MIN_CLIPS_PER_STEP
        least = 2 if train.group_by_clip == "on" else 1
        max_rows = train.max_rows_per_group or max(least, min(MAX_ROWS_PER_GROUP, by_diversity))
    return BatchLimits(
        global_batch_rows=train.global_batch_rows,
        max_rows_per_group=max_rows,
        micro_batch_rows=train.micro_batch_rows,
        micro_batch_tokens=train.micro_batch_rows * rows.max_row_tokens,
    )


def count_steps(job: Job, rows: RowFacts) -> Steps:
    """Counts the steps of a training; the trainer keeps a last, smaller global batch."""
    train = job.recipe.train
    per_epoch = math.ceil(rows.num_per_epoch / train.global_batch_rows)
    return Steps(train.max_steps or math.ceil((train.epochs or 0) * per_epoch), per_epoch)


def clips_of(rows: RowFacts) -> list[ClipShape]:
    """Returns the clips of all rows, each once."""
    shapes = {
        clip: ClipShape(num_frames, num_tokens)
        for row in (*rows.train, *rows.val)
        for clip, num_frames, num_tokens in zip(row.clips, row.num_frames, row.num_clip_tokens, strict=True)
    }
    return list(shapes.values())


def decide_recompute(job: Job, *, batches: Sequence[Batch], caches: bool) -> bool:
    """Decides whether activations are recomputed in the backward pass.

    Where the recipe leaves it open: when a micro-batch would not fit otherwise, as the memory model counts, with room for what
    it does not count; and when the memory is not known, or not modelled.

    Args:
        job: The job.
        batches: The micro-batches of an epoch.
        caches: Whether features are cached.
    """
    asked = job.recipe.train.gradient_checkpointing
    if asked != "auto":
        return asked
    memory_bytes, costs = job.memory_bytes, job.family.costs(job.model.folder.config)
    if memory_bytes is None or costs is None:
        return True
    training = describe_training(job, caches=caches, recompute=False)
    return peak_of(costs, batches, training).peak > USABLE_SHARE * memory_bytes


def describe_training(job: Job, *, caches: bool, recompute: bool) -> Training:
    """Says how a recipe trains, for the memory model.

    Args:
        job: The job.
        caches: Whether features are cached.
        recompute: Whether activations are recomputed.
    """
    recipe, lora = job.recipe, job.recipe.lora
    return Training(
        dtype_bytes=BY_NAME[recipe.model.dtype].num_bytes,
        adapted=adapted_names(job.family.parts, lora.targets),
        rank=lora.rank,
        adapter=job.adapter_parameters,
        recompute=recompute,
        dropout=lora.dropout,
        strategy=recipe.parallel.strategy,
        num_ranks=job.ranks.num,
        has_tower=not caches,
        chunk_tokens=LABEL_CHUNK_TOKENS,
        quantize=recipe.model.quantize,
        embeddings_on_cpu=recipe.model.embeddings_on_cpu,
    )


def peak_of(costs: CostModel, batches: Sequence[Batch], training: Training) -> Memory:
    """Returns the memory of the micro-batch that needs most."""
    largest = sorted(set(batches), key=lambda batch: (batch.num_tokens, batch.num_label_tokens))[-NUM_LARGEST:]
    return max((costs.peak_memory(batch, training) for batch in largest), key=lambda memory: memory.peak)


def trains_tower(recipe: Recipe) -> bool:
    """Tells whether anything of vision tower or projector is trained."""
    return recipe.lora.train_vision_tower or recipe.lora.train_projector is not False
