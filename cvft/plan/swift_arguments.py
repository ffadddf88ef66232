"""The arguments of a training in ms-swift's words. No other file in front of the worker speaks them."""

from __future__ import annotations

import math
from typing import Any

from cvft.dtypes import BY_NAME
from cvft.families.family import Family
from cvft.families.parts import modules_to_save, target_regex
from cvft.plan.deepspeed_config import read_deepspeed_config
from cvft.plan.job import Job

TRAIN_DATASET = "cvft_train"
VAL_DATASET = "cvft_val"
"""Names under which the worker registers the run's row files with ms-swift."""

ATTENTION_DEFAULT = "sdpa"

MIN_STEPS_APART = 10
"""Steps between two checkpoints, and between two measurements of the val loss, at the least, where the recipe does not say: with
an epoch of two steps, one at each end of an epoch would take longer than the steps between them."""


def registered_name(family: Family) -> str:
    """Returns the name under which a family's model, template and architecture are registered with ms-swift."""
    return f"cvft_{family.name}"


def steps_apart(steps_per_epoch: int) -> int:
    """Returns the steps between two checkpoints or measurements of the val loss, where the recipe does not say.

    They fall on ends of epochs: on each, or on as few as lie `MIN_STEPS_APART` apart.
    """
    return steps_per_epoch * math.ceil(MIN_STEPS_APART / steps_per_epoch)


def swift_arguments(
    job: Job, *, recompute: bool, steps_per_epoch: int, num_steps: int, has_val: bool
) -> dict[str, Any]:
    """States every argument of a training for ms-swift.

    What it would otherwise derive from the machine that it runs on (gradient accumulation from the number of ranks, fp16 for
    fp32 weights, reentrant checkpointing) is stated here.

    Args:
        job: The job.
        recompute: Whether activations are recomputed in the backward pass.
        steps_per_epoch: Optimizer steps of one pass over the rows.
        num_steps: Optimizer steps of the whole training.
        has_val: Whether there are val rows.

    Returns:
        Arguments of `SftArguments`.
    """
    recipe, ranks, run_dir = job.recipe, job.ranks, job.run.path
    is_bf16 = recipe.model.dtype == "bf16"
    by_default = steps_apart(steps_per_epoch)
    save_steps = recipe.train.save_steps or by_default
    eval_steps = recipe.train.eval_steps or by_default
    arguments: dict[str, Any] = {
        "model": str(run_dir / "model_view"),
        "model_type": registered_name(job.family),
        "template": registered_name(job.family),
        "torch_dtype": BY_NAME[recipe.model.dtype].torch_name,
        "bf16": is_bf16,
        "fp16": False,  # ms-swift would switch it on for fp32 weights
        "attn_impl": job.recipe.attention or ATTENTION_DEFAULT,
        "max_length": job.preprocessing.max_tokens,
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
            job.family.parts,
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
        "callbacks": ["cvft", *(["cvft_tensorboard"] if "tensorboard" in recipe.train.report_to else [])],
        "use_cpu": ranks.device == "cpu",
    }
    if whole := modules_to_save(job.family.parts, job.model.shapes, train_projector=recipe.lora.train_projector):
        arguments["modules_to_save"] = whole
    if recipe.train.resume_from is not None:
        arguments["adapters"] = [str(job.run.start)]
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
