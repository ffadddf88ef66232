"""The settings' key paths, and which one a reader meant by another name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from cvft.errors import did_you_mean, nearest, quote
from cvft.recipe.schema import Recipe

FOREIGN_NAMES: dict[str, str] = {
    "attn_impl": "model.attention",
    "bs": "train.micro_batch_rows",
    "batch_size": "train.global_batch_rows",
    "dataset": "data.train",
    "deepspeed": "parallel.strategy",
    "eval_batch_size": "eval.batch_rows",
    "freeze_aligner": "lora.train_projector",
    "freeze_vit": "lora.train_vision_tower",
    "gradient_accumulation_steps": "train.global_batch_rows",
    "lora_alpha": "lora.alpha",
    "lora_dropout": "lora.dropout",
    "lora_dropout_p": "lora.dropout",
    "lora_rank": "lora.rank",
    "lr": "optim.learning_rate",
    "lr_scheduler_type": "optim.schedule",
    "max_length": "data.max_tokens",
    "model_id_or_path": "model.path",
    "nframes": "video.max_frames",
    "nproc_per_node": "parallel.num_gpus",
    "num_epochs": "train.epochs",
    "num_frames": "video.max_frames",
    "num_train_epochs": "train.epochs",
    "output_dir": "output.root",
    "per_device_train_batch_size": "train.micro_batch_rows",
    "save_total_limit": "train.keep_checkpoints",
    "split_dataset_ratio": "data.val_fraction",
    "target_modules": "lora.targets",
    "torch_dtype": "model.dtype",
    "use_dora": "lora.dora",
    "use_rslora": "lora.rslora",
    "val_dataset": "data.val",
}
"""What other trainers (ms-swift, transformers, peft) call a setting: their word -> our key path."""


REMOVED: dict[str, str] = {"model.hub": "write `hf:owner/name` or `ms:owner/name` as `model.path`"}
"""Settings of earlier recipes -> what to write instead."""


def iter_fields() -> Iterator[tuple[str, FieldInfo]]:
    """Yields every setting's key path and definition, in the order of the schema."""
    for name, field in Recipe.model_fields.items():
        section = section_of(name)
        if section is None:
            yield name, field
        else:
            for key, inner in section.model_fields.items():
                yield f"{name}.{key}", inner


def section_of(name: str) -> type[BaseModel] | None:
    """The section's type, or None when `name` is not a section."""
    field = Recipe.model_fields.get(name)
    kind: Any = field.annotation if field else None
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def section_names() -> list[str]:
    """The sections, in the order of the schema."""
    return [name for name in Recipe.model_fields if section_of(name)]


def key_names(section: str) -> list[str]:
    """The keys that may stand in `section`, or at the top when it is empty."""
    kind = section_of(section) if section else Recipe
    return list(kind.model_fields) if kind else []


def hint_for_unknown(path: str) -> str:
    """Says which setting an unknown key path probably means, or returns an empty text.

    A near name in the same section comes first, then the same name in another section, then another trainer's word.
    """
    if path in REMOVED:
        return REMOVED[path]
    section, _, key = path.rpartition(".")
    known = key_names(section)
    if section and not known:  # the section itself is misspelt or does not exist
        if section in (path for path, _ in iter_fields()):
            return f"did you mean {quote(section)}?"
        moved = _elsewhere(key)
        near = nearest(section, section_names(), count=1)
        if near and key in key_names(near[0]):
            return f"did you mean {quote(f'{near[0]}.{key}')}?"
        return moved or did_you_mean(section, section_names())
    exact = _elsewhere(key)
    if exact:
        return exact
    near_here = did_you_mean(key, known if section else [*known, "extends"])
    if near_here:
        return near_here
    near_names = nearest(key, [path.rpartition(".")[2] for path, _ in iter_fields()], count=1)
    return _elsewhere(near_names[0]) if near_names else ""


def _elsewhere(key: str) -> str:
    paths = [path for path, _ in iter_fields() if path.rpartition(".")[2] == key]
    if not paths and key in FOREIGN_NAMES:
        return f"that setting is called {quote(FOREIGN_NAMES[key])} here"
    if not paths:
        return ""
    return f"that setting is {' or '.join(quote(path) for path in paths)}"
