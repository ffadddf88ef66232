"""The plan: a recipe and a few facts about data, model and machine become everything that a run will do.

Recipe + `ModelFacts` + `RowFacts` + number of GPUs -> `Plan` (worker arguments, environment, command, files)

Pure: no GPU asked, neither torch nor ms-swift imported, and no file read but a DeepSpeed configuration of the user's own.
What ms-swift would otherwise derive from the machine it runs on (gradient accumulation from the number of ranks, fp16 for
fp32 weights, reentrant checkpointing) is stated here, and so is every environment variable that the worker gets.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cvft.data.features.key import FeatureKey
from cvft.data.packing import BatchLimits
from cvft.data.video.loader import DEFAULT_CACHE_BYTES, DecodeSettings
from cvft.errors import Problem, RecipeError
from cvft.families.cogvlm2_video.targets import target_regex
from cvft.plan.batching import (
    Feeding,
    ModelFacts,
    RowFacts,
    decide_features,
    decide_feeding,
    decide_limits,
    decide_recompute,
    features_root,
    trains_tower,
)
from cvft.plan.deepspeed_config import read_deepspeed_config
from cvft.plan.passes import batches_of_epoch
from cvft.plan.ranks import Ranks, decide_ranks, node_rank_of, worker_command, worker_environment
from cvft.recipe import Recipe

TRAIN_DATASET = "cvft_train"
VAL_DATASET = "cvft_val"
"""Names under which the worker registers the run's row files with ms-swift."""

ATTENTION_DEFAULT = "sdpa"


@dataclass(frozen=True)
class Plan:
    """Everything that a training will do; the file of it is what the worker reads.

    Args:
        run_dir: The run's folder.
        model_view: Clean view of the model folder that ms-swift opens.
        feeding: How rows reach the model.
        decoder: Library that decodes.
        decode_timeout_s: Seconds that a clip may take.
        decode_memory_gib: Address space that decoding may take.
        clip_cache_bytes: Most bytes of decoded clips kept per process; benchmarks keep none for comparison.
        features: Key of the vision features that are computed once and kept, or None to encode clips as they come.
        features_root: Folder of the stores of features.
        device: `cpu` or `cuda`.
        rope_precision: Precision of the rotary table.
        quantize: How the frozen decoder blocks are held: `none`, `nf4` or `int8`.
        embeddings_on_cpu: Whether the input embedding stays in the host's memory.
        runs_tower_always: Whether rows without a clip pass through the tower too, so that all ranks do.
        strategy: How the work is spread over the ranks.
        num_ranks: Processes, over all nodes.
        num_nodes: Machines.
        limits: Which rows go together in a step, a group and a pass.
        label_logits_only: Whether only label tokens get logits; benchmarks compute all of them for comparison.
        num_steps: Optimizer steps of the whole training.
        steps_per_epoch: Optimizer steps of one pass over the rows.
        keep_checkpoints: Newest checkpoints that stay; the best stays besides.
        swift_arguments: Arguments of ms-swift's `SftArguments`.
        environment: Variables that the worker gets beyond the shell's own.
        command: How the worker is started.
    """

    run_dir: Path
    model_view: Path
    feeding: Feeding
    decoder: str
    decode_timeout_s: float
    decode_memory_gib: float
    clip_cache_bytes: int
    features: FeatureKey | None
    features_root: Path
    device: str
    rope_precision: str
    quantize: str
    embeddings_on_cpu: bool
    runs_tower_always: bool
    strategy: str
    num_ranks: int
    num_nodes: int
    limits: BatchLimits
    label_logits_only: bool
    num_steps: int
    steps_per_epoch: int
    keep_checkpoints: int
    swift_arguments: Mapping[str, Any]
    environment: Mapping[str, str]
    command: tuple[str, ...]

    def to_json(self) -> str:
        """Returns the text of `plan.json`."""
        return json.dumps(asdict(self), indent=2, default=str) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Reads back what `to_json` wrote."""
        values = json.loads(text)
        paths = {key: Path(values[key]) for key in ("run_dir", "model_view", "features_root")}
        parts = {
            "feeding": Feeding(**values["feeding"]),
            "features": None if values["features"] is None else FeatureKey(**values["features"]),
            "limits": BatchLimits(**values["limits"]),
        }
        return cls(**{**values, **paths, **parts, "command": tuple(values["command"])})

    @property
    def decode(self) -> DecodeSettings:
        """How clips become frames."""
        return DecodeSettings.of(
            self.feeding.sampling,
            max_frames=self.feeding.max_frames,
            decoder=self.decoder,
            timeout_s=self.decode_timeout_s,
            memory_gib=self.decode_memory_gib,
        )


def compile_plan(
    recipe: Recipe,
    *,
    model: ModelFacts,
    rows: RowFacts,
    num_gpus_present: int,
    feature_key: Callable[[str], FeatureKey],
    memory_bytes: int | None = None,
) -> Plan:
    """Compiles a recipe into the plan of its training.

    Args:
        recipe: The recipe; its `name` must be set.
        model: Facts of its model folder.
        rows: Facts of the rows that will train.
        num_gpus_present: GPUs that this machine shows.
        feature_key: Device -> key of the clips' features on it.
        memory_bytes: What the device of each rank has; None when it is not known.

    Returns:
        The plan.

    Raises:
        RecipeError: when the recipe cannot run on these rows or this machine.
    """
    feeding = decide_feeding(recipe, model)
    ranks = decide_ranks(recipe, num_gpus_present=num_gpus_present)
    if recipe.model.embeddings_on_cpu and ranks.device == "cpu":
        problem = Problem(
            "model.embeddings_on_cpu", "`true` on a machine without a GPU", "no such setting", "remove it"
        )
        raise RecipeError("this machine", [problem])
    recipe.accumulation_steps(num_ranks=ranks.num)  # refuses a global batch that cannot be shared out
    limits = decide_limits(recipe, rows=rows)
    run_dir = recipe.run_dir.absolute()
    # the trainer keeps a last, smaller global batch; every row is seen once per epoch
    steps_per_epoch = math.ceil(len(rows.train) / recipe.train.global_batch_rows)
    num_steps = recipe.train.max_steps or math.ceil((recipe.train.epochs or 0) * steps_per_epoch)
    caches = decide_features(recipe, rows=rows, limits=limits, num_epochs=num_steps / steps_per_epoch)
    recompute = decide_recompute(
        recipe,
        model=model,
        batches=batches_of_epoch(rows.train, limits=limits, num_ranks=ranks.num, seed=recipe.seed, caches=caches),
        caches=caches,
        num_ranks=ranks.num,
        memory_bytes=memory_bytes,
    )
    arguments = _swift_arguments(
        recipe,
        run_dir=run_dir,
        ranks=ranks,
        feeding=feeding,
        recompute=recompute,
        steps_per_epoch=steps_per_epoch,
        num_steps=num_steps,
        has_val=len(rows.val) > 0,
    )
    command = worker_command(
        recipe, num_per_node=ranks.num_per_node, node_rank=node_rank_of(recipe), plan_file=run_dir / "plan.json"
    )
    return Plan(
        run_dir=run_dir,
        model_view=run_dir / "model_view",
        feeding=feeding,
        decoder=recipe.video.decoder,
        decode_timeout_s=recipe.video.timeout_s,
        decode_memory_gib=recipe.video.memory_gib,
        clip_cache_bytes=DEFAULT_CACHE_BYTES,
        features=feature_key(ranks.device) if caches else None,
        features_root=features_root(recipe),
        device=ranks.device,
        rope_precision=recipe.model.rope_precision,
        quantize=recipe.model.quantize,
        embeddings_on_cpu=recipe.model.embeddings_on_cpu,
        # one process too: a gradient of zero and none at all are not the same to AdamW. ZeRO-3 gathers even a frozen tower
        runs_tower_always=trains_tower(recipe) or recipe.parallel.strategy == "zero3",
        strategy=recipe.parallel.strategy,
        num_ranks=ranks.num,
        num_nodes=ranks.num_nodes,
        limits=limits,
        label_logits_only=True,
        num_steps=num_steps,
        steps_per_epoch=steps_per_epoch,
        keep_checkpoints=recipe.train.keep_checkpoints,
        swift_arguments=arguments,
        environment=worker_environment(run_dir, num_threads=recipe.parallel.num_threads),
        command=command,
    )


def _swift_arguments(
    recipe: Recipe,
    *,
    run_dir: Path,
    ranks: Ranks,
    feeding: Feeding,
    recompute: bool,
    steps_per_epoch: int,
    num_steps: int,
    has_val: bool,
) -> dict[str, Any]:
    is_bf16 = recipe.model.dtype == "bf16"
    save_steps = recipe.train.save_steps or steps_per_epoch
    eval_steps = recipe.train.eval_steps or steps_per_epoch
    arguments: dict[str, Any] = {
        "model": str(run_dir / "model_view"),
        "model_type": "cvft_cogvlm2_video",
        "template": "cvft_cogvlm2_video",
        "torch_dtype": "bfloat16" if is_bf16 else "float32",
        "bf16": is_bf16,
        "fp16": False,  # ms-swift would switch it on for fp32 weights
        "attn_impl": ATTENTION_DEFAULT if recipe.model.attention == "auto" else recipe.model.attention,
        "max_length": feeding.max_tokens,
        "truncation_strategy": "raise",
        "dataset": [TRAIN_DATASET],
        "val_dataset": [VAL_DATASET] if has_val else [],
        "split_dataset_ratio": 0.0,
        "dataset_shuffle": False,
        "val_dataset_shuffle": False,
        "strict": True,  # otherwise a failing row becomes another, random one
        "lazy_tokenize": True,
        "load_from_cache_file": False,
        "dataset_num_proc": 1,
        "remove_unused_columns": True,
        "seed": recipe.seed,
        "data_seed": recipe.seed,
        "tuner_type": "lora",
        "target_regex": target_regex(
            recipe.lora.targets,
            train_vision_tower=recipe.lora.train_vision_tower,
            train_projector=recipe.lora.train_projector,
        ),
        "lora_rank": recipe.lora.rank,
        "lora_alpha": recipe.lora.alpha,
        "lora_dropout": recipe.lora.dropout,
        "use_dora": recipe.lora.dora,
        "use_rslora": recipe.lora.rslora,
        "learning_rate": recipe.optim.learning_rate,
        "weight_decay": recipe.optim.weight_decay,
        "warmup_ratio": recipe.optim.warmup_ratio,
        "lr_scheduler_type": _scheduler(recipe.optim.schedule, warmup_ratio=recipe.optim.warmup_ratio),
        "max_grad_norm": recipe.optim.max_grad_norm,
        "adam_beta1": recipe.optim.adam_beta1,
        "adam_beta2": recipe.optim.adam_beta2,
        "max_steps": num_steps,
        "num_train_epochs": math.ceil(num_steps / steps_per_epoch),
        # the sampler deals out whole steps, and the trainer passes through each in as many micro-batches as it takes
        "per_device_train_batch_size": recipe.train.global_batch_rows // ranks.num,
        "per_device_eval_batch_size": recipe.train.micro_batch_rows,
        "gradient_accumulation_steps": 1,
        "gradient_checkpointing": recompute,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},  # reentrant drops the tower's gradients silently
        "vit_gradient_checkpointing": recompute and recipe.lora.train_vision_tower,
        "logging_steps": recipe.train.logging_steps,
        "logging_first_step": True,
        "save_strategy": "steps",
        "save_steps": min(save_steps, num_steps),
        "average_tokens_across_devices": True,
        "eval_strategy": "steps" if has_val else "no",
        "eval_steps": min(eval_steps, num_steps),
        "dataloader_num_workers": recipe.train.num_workers,
        "dataloader_persistent_workers": recipe.train.num_workers > 0,  # their decoded clips outlive an epoch
        "train_dataloader_shuffle": True,
        "dataloader_drop_last": False,
        "dataloader_pin_memory": ranks.device == "cuda",
        "use_logits_to_keep": False,  # it cuts labels to a suffix that it reads from the device; see `label_logits_only`
        "output_dir": str(run_dir / "train"),
        "logging_dir": str(run_dir / "train" / "runs"),
        "add_version": False,
        "check_model": False,  # a call to a model hub, even for a local folder
        "report_to": ["none"],  # with "tensorboard", ms-swift spends seconds on plots of its own at every end
        "disable_tqdm": True,  # the launcher shows the one progress bar
        "callbacks": ["cvft", "cvft_tensorboard"],
        "use_cpu": ranks.device == "cpu",
    }
    if recipe.parallel.strategy == "ddp":
        arguments["ddp_find_unused_parameters"] = False  # every rank passes through every adapter
    if recipe.parallel.deepspeed_config is not None:
        arguments["deepspeed"] = read_deepspeed_config(recipe, num_ranks=ranks.num)
    elif recipe.parallel.strategy.startswith("zero"):
        arguments["deepspeed"] = recipe.parallel.strategy
    return arguments


def _scheduler(schedule: str, *, warmup_ratio: float) -> str:
    """Names a schedule as transformers does, whose own `constant` would ignore the warm-up."""
    return "constant_with_warmup" if schedule == "constant" and warmup_ratio > 0 else schedule
