"""Rules between the settings of what goes in: rows, the part that trains, the model."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from cvft.cards import find_named, names_dataset, read_card
from cvft.errors import Problem, quote
from cvft.recipe.rule import Rule

if TYPE_CHECKING:
    from cvft.recipe.schema import Recipe


def _one_val_source(recipe: Recipe) -> Iterable[Problem]:
    data = recipe.data
    if data.val is not None and data.val_fraction is not None:
        yield Problem(
            "data.val_fraction",
            f"{quote(data.val_fraction)} beside a val file",
            "one of `data.val` and `data.val_fraction`",
            "a val file is used whole: remove `data.val_fraction`",
        )


def _val_rows_are_held_out(recipe: Recipe) -> Iterable[Problem]:
    data = recipe.data
    if data.val is None and data.val_fraction:
        return
    beside = "a val file" if data.val is not None else f"`data.val_fraction` {data.val_fraction or 0:g}"
    why = "nothing is held out of the train file"
    if data.val_rows is not None:
        hint = "remove `data.val_rows`; eval.num_rows asks fewer val rows"
        yield Problem("data.val_rows", f"{quote(data.val_rows)} beside {beside}", f"`null`: {why}", hint)
    if data.split_by != "files":
        hint = "`cvft check` compares the files; remove `data.split_by`"
        yield Problem("data.split_by", f"{quote(data.split_by)} beside {beside}", f"`files`: {why}", hint)


def _datasets_are_known(recipe: Recipe) -> Iterable[Problem]:
    data = recipe.data
    files = data.train if isinstance(data.train, tuple) else ()
    stated = {f"data.train[{number}].path": file.path for number, file in enumerate(files)}
    stated |= {"data.train": data.train} if isinstance(data.train, Path) else {}
    stated |= {} if data.val is None else {"data.val": data.val}
    for key, path in stated.items():
        if names_dataset(str(path)) and find_named(str(path), is_held_out=key == "data.val") is None:
            card = read_card(str(path).partition(":")[0])
            parts = " or ".join(quote(f"{card.name}:{split}") for split in card.splits)
            yield Problem(key, quote(path), parts)
    for number, file in enumerate(files):
        if file.format is not None and names_dataset(str(file.path)):
            need = "no format: a dataset that is given by name has its own"
            yield Problem(f"data.train[{number}].format", quote(file.format), need, "remove it")
    if data.datasets is not None and not any(names_dataset(str(path)) for path in stated.values()):
        got = f"{quote(data.datasets)} and no dataset by name"
        yield Problem(
            "data.datasets", got, "one in `data.train` or `data.val`", "remove it, or give a name and no path"
        )


def _each_file_once(recipe: Recipe) -> Iterable[Problem]:
    paths = [file.path for file in recipe.data.train] if isinstance(recipe.data.train, tuple) else []
    for number, path in enumerate(paths):
        if path in paths[:number]:
            got = f"{quote(path)} a second time"
            yield Problem(f"data.train[{number}].path", got, "each file once", "give it a `weight` of 2")


def _one_length(recipe: Recipe) -> Iterable[Problem]:
    train = recipe.train
    if train.epochs is not None and train.max_steps is not None:
        yield Problem(
            "train.max_steps",
            f"{quote(train.max_steps)} beside `train.epochs` {train.epochs:g}",
            "one of `train.epochs` and `train.max_steps`",
            "remove one of the two",
        )
    if train.epochs is None and train.max_steps is None:
        yield Problem(
            "train.epochs",
            "`null` and no `train.max_steps`",
            "one of `train.epochs` and `train.max_steps`",
            "set `train.max_steps`, or remove `epochs: null`",
        )


def _targets_are_modules(recipe: Recipe) -> Iterable[Problem]:
    targets = recipe.lora.targets
    if isinstance(targets, str):
        return
    words = [name for name in targets if name in ("qkv", "all-linear")]
    if words:
        yield Problem(
            "lora.targets",
            f"{quote(words[0])} in a list",
            "module names in a list, or that word alone",
            f"write `targets: {words[0]}`",
        )
    twice = sorted({name for name in targets if targets.count(name) > 1})
    if twice:
        yield Problem("lora.targets", f"{quote(twice[0])} more than once", "each module name once", "remove the second")


def _parts_need_all_linear(recipe: Recipe) -> Iterable[Problem]:
    targets = recipe.lora.targets
    if targets == "all-linear":
        return
    shown = "`qkv`" if targets == "qkv" else "a list of modules"
    for key in ("train_vision_tower", "train_projector"):
        if getattr(recipe.lora, key) is True:
            yield Problem(
                f"lora.{key}",
                f"`true` with `lora.targets` {shown}",
                "`false`: it has an effect with `all-linear` only",
                "set `lora.targets: all-linear`",
            )


def _projector_is_whole(recipe: Recipe) -> Iterable[Problem]:
    if recipe.lora.train_projector == "full" and recipe.parallel.strategy == "zero3":
        yield Problem(
            "lora.train_projector",
            "`full` with `parallel.strategy` zero3",
            "`true` or `false`: what is trained wholly is not cut into pieces",
            "set `parallel.strategy: zero2`",
        )


def _kernel_fits(recipe: Recipe) -> Iterable[Problem]:
    if recipe.model.attention != "flash_attention_2":
        return
    if recipe.model.dtype == "fp32":
        yield Problem(
            "model.attention",
            "`flash_attention_2` with `model.dtype` fp32",
            "`auto`, `sdpa` or `eager`: that kernel computes in bf16 only",
            "set `model.attention: auto`",
        )
    if recipe.parallel.device == "cpu":
        yield Problem(
            "model.attention",
            "`flash_attention_2` with `parallel.device` cpu",
            "`auto`, `sdpa` or `eager`: that kernel needs a GPU",
            "set `model.attention: auto`",
        )


def _weights_can_be_quantized(recipe: Recipe) -> Iterable[Problem]:
    kind = recipe.model.quantize
    if kind == "none":
        return
    if recipe.model.dtype != "bf16":
        got = f"{quote(kind)} with `model.dtype` {recipe.model.dtype}"
        yield Problem("model.quantize", got, "`model.dtype: bf16`, the precision that the kernels compute in")
    if recipe.parallel.strategy == "zero3":
        need = "a strategy that leaves weights whole: ZeRO-3 cannot cut packed ones"
        yield Problem("model.quantize", f"{quote(kind)} with `parallel.strategy` zero3", need, "use zero2")


def _embedding_can_stay(recipe: Recipe) -> Iterable[Problem]:
    if not recipe.model.embeddings_on_cpu:
        return
    if recipe.parallel.strategy != "single":
        got = f"`true` with `parallel.strategy` {recipe.parallel.strategy}"
        need = "`single`: ranks that work together hold all weights on their GPUs"
        yield Problem("model.embeddings_on_cpu", got, need, "remove one of the two")
    if recipe.parallel.device == "cpu":
        got = "`true` with `parallel.device` cpu"
        yield Problem("model.embeddings_on_cpu", got, "a GPU: everything is on the CPU already", "remove it")


INPUT_RULES: tuple[Rule, ...] = (
    Rule(("data.val", "data.val_fraction"), _one_val_source),
    Rule(("data.val_rows", "data.split_by", "data.val", "data.val_fraction"), _val_rows_are_held_out),
    Rule(("data.train",), _each_file_once),
    Rule(("data.train", "data.val", "data.datasets"), _datasets_are_known),
    Rule(("train.epochs", "train.max_steps"), _one_length),
    Rule(("lora.targets",), _targets_are_modules),
    Rule(("lora.targets", "lora.train_vision_tower", "lora.train_projector"), _parts_need_all_linear),
    Rule(("lora.train_projector", "parallel.strategy"), _projector_is_whole),
    Rule(("model.attention", "model.dtype", "parallel.device"), _kernel_fits),
    Rule(("model.quantize", "model.dtype", "parallel.strategy"), _weights_can_be_quantized),
    Rule(("model.embeddings_on_cpu", "parallel.strategy", "parallel.device"), _embedding_can_stay),
)
