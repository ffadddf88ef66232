"""What a recipe leaves open, decided from facts of model, rows and machine: feeding, groups, features, recomputation.

Recipe + `ModelFacts` + `RowFacts` -> `Feeding`, `BatchLimits`, yes or no. Pure, like the plan that is made of it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from cvft.data.groups import RowShape, most_rows_per_clip
from cvft.data.packing import BatchLimits
from cvft.errors import Problem, RecipeError, quote
from cvft.families.cogvlm2_video.architecture import Architecture, adapted_names, count_adapter_parameters
from cvft.families.cogvlm2_video.checkpoints import find_published
from cvft.families.cogvlm2_video.flops import Batch
from cvft.families.cogvlm2_video.layout import LABEL_CHUNK_ROWS
from cvft.families.cogvlm2_video.memory import Memory, Training, peak_memory
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
"""Longest passes of an epoch among which the one that needs most memory is looked for."""


@dataclass(frozen=True)
class ModelFacts:
    """What the plan needs to know of the model folder.

    Args:
        path: The folder.
        template_version: As its config.json states it.
        is_official: Whether config.json is a published one (which states "base" in every checkpoint), not one that cvft wrote.
        max_tokens: Longest row that the model was made for.
        num_tokens_per_frame: Vision tokens of a frame.
        image_size: Side of a frame in pixels.
        architecture: Its sizes.
    """

    path: Path
    template_version: str
    is_official: bool
    max_tokens: int
    num_tokens_per_frame: int
    image_size: int
    architecture: Architecture


@dataclass(frozen=True)
class RowFacts:
    """What the plan needs to know of the rows that will really train.

    Args:
        train: Shapes of the rows to train on.
        val: Shapes of the rows held out.
    """

    train: Sequence[RowShape]
    val: Sequence[RowShape]

    @property
    def max_row_tokens(self) -> int:
        """Longest row in tokens."""
        return max(shape.num_tokens for shape in (*self.train, *self.val))

    def to_json(self) -> str:
        """Returns the text of `row_shapes.json`."""
        return json.dumps(asdict(self)) + "\n"

    @classmethod
    def from_json(cls, text: str) -> RowFacts:
        """Reads back what `to_json` wrote."""
        return cls(**{key: [RowShape(**shape) for shape in shapes] for key, shapes in json.loads(text).items()})


@dataclass(frozen=True)
class Feeding:
    """How rows reach the model, with every `auto` decided.

    Args:
        template: Prompt template.
        sampling: Frame sampling rule.
        max_frames: Most frames of a clip.
        max_tokens: Longest row allowed.
    """

    template: str
    sampling: str
    max_frames: int
    max_tokens: int


def decide_feeding(recipe: Recipe, model: ModelFacts) -> Feeding:
    """Decides template, sampling and length limit where the recipe says `auto` or nothing.

    Official checkpoints all state template "base", so their name decides, as in the published demo: "base" for the base
    checkpoint, "chat" for the others. A folder that is not official is believed.

    Args:
        recipe: The recipe.
        model: Facts of its model folder.

    Returns:
        The decisions.
    """
    template: str = recipe.model.template
    if template == "auto":
        published = find_published(recipe.model.path)
        by_name = published.template if published is not None else "chat"
        template = by_name if model.is_official else model.template_version
    sampling = recipe.video.sampling
    if sampling == "auto":
        sampling = "base" if template in ("base", "swift") else "chat"
    max_tokens = recipe.data.max_tokens or model.max_tokens
    return Feeding(template=template, sampling=sampling, max_frames=recipe.video.max_frames, max_tokens=max_tokens)


def decide_limits(recipe: Recipe, *, rows: RowFacts) -> BatchLimits:
    """Decides which rows go together.

    Args:
        recipe: The recipe.
        rows: Facts of the rows that will train.

    Returns:
        The limits.

    Raises:
        RecipeError: when groups are asked for and no two rows share a clip.
    """
    train = recipe.train
    shares_clips = most_rows_per_clip(rows.train) > 1
    asked = {"train.group_by_clip": train.group_by_clip == "on", "train.max_rows_per_group": train.max_rows_per_group}
    if not shares_clips and any(asked.values()):
        key = next(key for key, value in asked.items() if value)
        value = train.group_by_clip if key == "train.group_by_clip" else train.max_rows_per_group
        need, hint = "rows that share a clip: every clip has one row", f"remove `{key}`"
        raise RecipeError("the recipe and its rows", [Problem(key, quote(value), need, hint)])
    takes_groups = recipe.model.attention not in MASKLESS_ATTENTION and train.group_by_clip != "off"
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


def decide_features(recipe: Recipe, *, rows: RowFacts, limits: BatchLimits, num_epochs: float) -> bool:
    """Decides whether each clip is encoded once and its features are kept.

    Where the recipe leaves it open: when the tower is frozen and some clip would be encoded twice in training.
    """
    asked = recipe.video.cache_features
    if asked != "auto" or recipe.lora.train_vision_tower:
        return asked == "on"
    has_clips = any(shape.clip is not None for shape in rows.train)
    return has_clips and (num_epochs > 1 or most_rows_per_clip(rows.train) > limits.max_rows_per_group)


def decide_recompute(
    recipe: Recipe,
    *,
    model: ModelFacts,
    batches: Sequence[Batch],
    caches: bool,
    num_ranks: int,
    memory_bytes: int | None,
) -> bool:
    """Decides whether activations are computed again in the backward pass.

    Where the recipe leaves it open: when a pass would not fit otherwise, as the memory model counts, with room for what it
    does not count; and when the memory is not known.

    Args:
        recipe: The recipe.
        model: Facts of its model folder.
        batches: The passes of an epoch.
        caches: Whether features are kept.
        num_ranks: Processes, over all nodes.
        memory_bytes: What each rank's device has, or None.
    """
    asked = recipe.train.gradient_checkpointing
    if asked != "auto":
        return asked
    if memory_bytes is None:
        return True
    training = describe_training(recipe, model, caches=caches, num_ranks=num_ranks, recompute=False)
    return peak_of(model.architecture, batches, training).peak > USABLE_SHARE * memory_bytes


def describe_training(recipe: Recipe, model: ModelFacts, *, caches: bool, num_ranks: int, recompute: bool) -> Training:
    """States how a recipe trains, as far as memory and FLOPs go."""
    lora = recipe.lora
    return Training(
        dtype_bytes=2 if recipe.model.dtype == "bf16" else 4,
        adapted=adapted_names(lora.targets),
        rank=lora.rank,
        adapter=count_adapter_parameters(
            model.architecture,
            targets=lora.targets,
            rank=lora.rank,
            dora=lora.dora,
            train_vision_tower=lora.train_vision_tower,
            train_projector=lora.train_projector,
        ),
        recompute=recompute,
        dropout=lora.dropout,
        strategy=recipe.parallel.strategy,
        num_ranks=num_ranks,
        has_tower=not caches,
        chunk_rows=LABEL_CHUNK_ROWS,
        quantize=recipe.model.quantize,
        embeddings_on_cpu=recipe.model.embeddings_on_cpu,
    )


def peak_of(architecture: Architecture, batches: Sequence[Batch], training: Training) -> Memory:
    """Returns the memory of the pass that needs most."""
    largest = sorted(set(batches), key=lambda batch: (batch.num_tokens, batch.num_label_tokens))[-NUM_LARGEST:]
    return max((peak_memory(architecture, batch, training) for batch in largest), key=lambda memory: memory.peak)


def features_root(recipe: Recipe) -> Path:
    """Returns the folder of the stores of features: beside the runs, under a name that no run can have."""
    return (recipe.output.features or recipe.output.root / ".features").absolute()


def trains_tower(recipe: Recipe) -> bool:
    """Tells whether vision tower or projector get adapters."""
    return recipe.lora.train_vision_tower or recipe.lora.train_projector
