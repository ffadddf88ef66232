"""Rules between settings: each refuses one combination and says which other value would do.

A rule names the settings it reads, so that nobody hears twice that one of them is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cvft.cards import find_named, names_dataset, read_card
from cvft.errors import Problem, RecipeError, quote

if TYPE_CHECKING:
    from cvft.recipe.schema import Recipe


LOSS_METRICS = ("eval_loss", "eval_token_acc")
"""What a checkpoint can be chosen by without an answer to any row."""


@dataclass(frozen=True)
class Rule:
    """One rule: the key paths it reads, and the check that returns its problems."""

    reads: tuple[str, ...]
    check: Callable[[Recipe], Iterable[Problem]]


class ConflictError(RecipeError):
    """Settings that are right by themselves contradict each other.

    Args:
        subject: What was read.
        conflicts: Each problem with the key paths that its rule reads.
    """

    def __init__(self, subject: str, conflicts: Iterable[tuple[Problem, tuple[str, ...]]]) -> None:
        self.conflicts = tuple(conflicts)
        super().__init__(subject, [problem for problem, _ in self.conflicts])


def find_conflicts(recipe: Recipe) -> list[tuple[Problem, tuple[str, ...]]]:
    """Returns every broken rule's problem with the key paths that the rule reads."""
    return [(problem, rule.reads) for rule in RULES for problem in rule.check(recipe)]


def check_global_batch(recipe: Recipe, *, num_ranks: int) -> Problem | None:
    """Returns a problem unless the global batch divides into whole micro batches on every rank."""
    rows, micro = recipe.train.global_batch_rows, recipe.train.micro_batch_rows
    unit = micro * num_ranks
    if rows % unit == 0:
        return None
    below, above = rows - rows % unit, rows - rows % unit + unit
    near = f"{quote(below)} or {quote(above)}" if below else quote(above)
    shares = f"train.micro_batch_rows {micro}" + (f" x {num_ranks} ranks" if num_ranks > 1 else "")
    fitting = [ranks for ranks in _divisors(rows // micro) if ranks > 1] if rows % micro == 0 else []
    if num_ranks > 1 and fitting:
        by_distance = sorted(fitting, key=lambda ranks: abs(ranks - num_ranks))[:2]
        near += f"; or {' or '.join(str(ranks) for ranks in sorted(by_distance))} ranks"
    return Problem("train.global_batch_rows", quote(rows), f"a multiple of {unit} ({shares})", f"nearest: {near}")


def _divisors(number: int) -> list[int]:
    small = [each for each in range(1, math.isqrt(number) + 1) if number % each == 0]
    return sorted({*small, *(number // each for each in small)})


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


def _ranks_fit_strategy(recipe: Recipe) -> Iterable[Problem]:
    parallel = recipe.parallel
    strategy, num_gpus = parallel.strategy, parallel.num_gpus
    if strategy == "single":
        if num_gpus != "auto" and num_gpus > 1:
            yield Problem(
                "parallel.num_gpus",
                f"{quote(num_gpus)} with `parallel.strategy` single",
                "1, or a strategy of several ranks",
                "set `parallel.strategy: zero2`",
            )
    elif num_gpus == "auto" and parallel.device == "cpu":
        yield Problem(
            "parallel.num_gpus",
            "`auto` with `parallel.device` cpu",
            "the number of processes, for there are no GPUs to count",
            "set `parallel.num_gpus: 2`",
        )
    elif num_gpus == 1 and parallel.num_nodes == 1 and strategy != "zero2_offload":
        # Offloading moves optimizer state to the host with one rank too; the others have nothing to share.
        yield Problem(
            "parallel.strategy",
            f"{quote(strategy)} with `parallel.num_gpus` 1",
            "`single` or `zero2_offload` for one rank",
            "set `parallel.strategy: single`",
        )


def _nodes_can_meet(recipe: Recipe) -> Iterable[Problem]:
    parallel = recipe.parallel
    if parallel.num_nodes == 1:
        for key in ("node_rank", "rendezvous", "rendezvous_timeout_s"):
            value = getattr(parallel, key)
            if value != type(parallel).model_fields[key].default:
                need = "no such setting: there is one machine only"
                got = f"{quote(value)} with `parallel.num_nodes` 1"
                yield Problem(f"parallel.{key}", got, need, "remove it, or set `parallel.num_nodes`")
        return
    if parallel.strategy == "single":
        got = f"`single` with `parallel.num_nodes` {parallel.num_nodes}"
        yield Problem("parallel.strategy", got, "a strategy of several ranks", "set `parallel.strategy: zero2`")
    if parallel.rendezvous is None:
        yield Problem(
            "parallel.rendezvous",
            f"nothing with `parallel.num_nodes` {parallel.num_nodes}",
            "`host:port` of the first machine",
            "a port that no other program uses there, such as 29500",
        )
    if parallel.node_rank is not None and parallel.node_rank >= parallel.num_nodes:
        need = f"0 to {parallel.num_nodes - 1}: there are {parallel.num_nodes} nodes"
        yield Problem("parallel.node_rank", quote(parallel.node_rank), need)


def _rendezvous_is_an_address(recipe: Recipe) -> Iterable[Problem]:
    rendezvous = recipe.parallel.rendezvous
    if rendezvous is None:
        return
    host, _, port = rendezvous.rpartition(":")
    if not host or not port.isdecimal() or not 1 <= int(port) <= 65535:
        need = "`host:port` with a port from 1 to 65535"
        yield Problem("parallel.rendezvous", quote(rendezvous), need, "such as `node0.cluster:29500`")


def _config_has_effect(recipe: Recipe) -> Iterable[Problem]:
    parallel = recipe.parallel
    if parallel.deepspeed_config is not None and not parallel.strategy.startswith("zero"):
        got = f"a file with `parallel.strategy` {parallel.strategy}"
        need = "no such setting: DeepSpeed does not run"
        yield Problem("parallel.deepspeed_config", got, need, "set `parallel.strategy: zero2`, or remove it")


def _batch_divides(recipe: Recipe) -> Iterable[Problem]:
    parallel = recipe.parallel
    # With `auto` the number of ranks is known on the machine only; accumulation_steps() checks again there.
    one = parallel.strategy == "single" or parallel.num_gpus == "auto"
    problem = check_global_batch(recipe, num_ranks=1 if one else int(parallel.num_gpus) * parallel.num_nodes)
    if problem is not None:
        yield problem


def _features_can_be_kept(recipe: Recipe) -> Iterable[Problem]:
    if recipe.video.cache_features == "on" and recipe.lora.train_vision_tower:
        yield Problem(
            "video.cache_features",
            "`on` with `lora.train_vision_tower` true",
            "`auto` or `off`: features of a tower that learns change with every step",
            "set `video.cache_features: auto`",
        )
    if recipe.video.cache_features == "off" and recipe.video.cache_limit_gb is not None:
        yield Problem(
            "video.cache_limit_gb",
            f"{quote(recipe.video.cache_limit_gb)} with `video.cache_features` off",
            "no such setting: no features are kept",
            "remove it, or set `video.cache_features: auto`",
        )
    if recipe.video.cache_features == "off" and recipe.output.features is not None:
        yield Problem(
            "output.features",
            "a folder with `video.cache_features` off",
            "no such setting: no features are kept",
            "remove it, or set `video.cache_features: auto`",
        )


def _groups_have_effect(recipe: Recipe) -> Iterable[Problem]:
    train = recipe.train
    if train.group_by_clip == "off" and train.max_rows_per_group is not None:
        yield Problem(
            "train.max_rows_per_group",
            f"{quote(train.max_rows_per_group)} with `train.group_by_clip` off",
            "no such setting: no rows are grouped",
            "remove it, or set `train.group_by_clip: auto`",
        )
    if recipe.model.attention == "flash_attention_2" and (
        train.group_by_clip == "on" or train.max_rows_per_group is not None
    ):
        asked = "group_by_clip" if train.group_by_clip == "on" else "max_rows_per_group"
        yield Problem(
            f"train.{asked}",
            f"{quote(getattr(train, asked))} with `model.attention` flash_attention_2",
            "an attention that takes a mask, which that kernel does not",
            "set `model.attention: auto`",
        )
    if train.max_rows_per_group is not None and train.max_rows_per_group > train.global_batch_rows:
        yield Problem(
            "train.max_rows_per_group",
            quote(train.max_rows_per_group),
            f"at most the {train.global_batch_rows} rows of a step (train.global_batch_rows)",
        )


def _eval_has_rows(recipe: Recipe) -> Iterable[Problem]:
    if recipe.data.val is not None or recipe.data.val_fraction != 0:
        return
    train = recipe.train
    for key in ("eval_steps", "eval_answers", "early_stop_evals", "select_by"):
        value, default = getattr(train, key), type(train).model_fields[key].default
        if value != default:
            yield Problem(
                f"train.{key}",
                f"{quote(value)} with `data.val_fraction` 0",
                f"{quote('null' if default is None else default)}: there are no val rows",
                f"remove `train.{key}`, or hold out some clips",
            )
    if recipe.export.checkpoint == "best":
        need = "`last` or a step: there are no val rows to tell which is best"
        yield Problem("export.checkpoint", "`best` with `data.val_fraction` 0", need, "hold out some clips")


def _choice_has_answers(recipe: Recipe) -> Iterable[Problem]:
    train = recipe.train
    if train.select_by not in LOSS_METRICS and train.eval_answers is None:
        yield Problem(
            "train.select_by",
            f"{quote(train.select_by)} without `train.eval_answers`",
            "`eval_loss` or `eval_token_acc`: no val row is answered while it trains",
            "set `train.eval_answers` to the number of val rows to answer each time",
        )
    if train.eval_answers is not None and recipe.parallel.strategy == "zero3":
        need = "`null`: ZeRO-3 has no whole weights to answer with"
        got = f"{quote(train.eval_answers)} with `parallel.strategy` zero3"
        yield Problem("train.eval_answers", got, need, "set `parallel.strategy: zero2`")


def _choice_has_effect(recipe: Recipe) -> Iterable[Problem]:
    train, checkpoint = recipe.train, recipe.export.checkpoint
    if not isinstance(checkpoint, int):
        return
    if train.early_stop_evals is not None:
        got = f"{quote(checkpoint)} with `train.early_stop_evals`"
        need = "`best` or `last`: the training may end before that step"
        yield Problem("export.checkpoint", got, need, "set `export.checkpoint: best`")
    if train.max_steps is not None and checkpoint > train.max_steps:
        yield Problem("export.checkpoint", quote(checkpoint), f"at most {train.max_steps} (train.max_steps)")


def _trackers_once(recipe: Recipe) -> Iterable[Problem]:
    names = recipe.train.report_to
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        yield Problem("train.report_to", f"{quote(twice[0])} more than once", "each tracker once", "remove the second")


def _export_has_effect(recipe: Recipe) -> Iterable[Problem]:
    if recipe.export.merge:
        return
    for key, field in type(recipe.export).model_fields.items():
        value = getattr(recipe.export, key)
        if key not in ("merge", "checkpoint") and value != field.default:
            yield Problem(
                f"export.{key}",
                f"{quote(value)} with `export.merge` false",
                "no such setting: nothing is merged",
                f"remove `export.{key}`",
            )


def _remote_code_computes_the_same(recipe: Recipe) -> Iterable[Problem]:
    if recipe.export.keep_remote_code and recipe.model.rope_precision == "fp32":
        yield Problem(
            "export.keep_remote_code",
            "`True` with `model.rope_precision` fp32",
            "`checkpoint`: the published code computes the rotary table in the weights' precision",
            "remove one of the two",
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


def _steps_can_be_skipped(recipe: Recipe) -> Iterable[Problem]:
    num, strategy = recipe.train.max_skipped_steps, recipe.parallel.strategy
    if num and strategy.startswith("zero"):
        got = f"{quote(num)} with `parallel.strategy` {strategy}"
        need = "0: DeepSpeed has taken a step by the time its gradient can be looked at"
        yield Problem("train.max_skipped_steps", got, need, "remove it, or set `parallel.strategy: ddp`")


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


def _probes_have_names(recipe: Recipe) -> Iterable[Problem]:
    paths = recipe.eval.probes
    stems = [path.stem for path in paths]
    twice = [path for path, stem in zip(paths, stems, strict=True) if stems.count(stem) > 1]
    if twice:
        got = f"{len(twice)} files named {quote(twice[0].stem)}"
        yield Problem("eval.probes", got, "files of different names, which the report shows", "rename all but one")
    for key, own in (("data.train", recipe.data.train), ("data.val", recipe.data.val)):
        if own in paths:
            yield Problem("eval.probes", f"the file of `{key}`", "rows that this training is not about", "leave it out")


RULES: tuple[Rule, ...] = (
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
    Rule(("parallel.strategy", "parallel.num_gpus", "parallel.num_nodes", "parallel.device"), _ranks_fit_strategy),
    Rule(
        (
            "parallel.num_nodes",
            "parallel.node_rank",
            "parallel.rendezvous",
            "parallel.rendezvous_timeout_s",
            "parallel.strategy",
        ),
        _nodes_can_meet,
    ),
    Rule(("parallel.rendezvous",), _rendezvous_is_an_address),
    Rule(("parallel.deepspeed_config", "parallel.strategy"), _config_has_effect),
    Rule(
        (
            "train.global_batch_rows",
            "train.micro_batch_rows",
            "parallel.num_gpus",
            "parallel.num_nodes",
            "parallel.strategy",
        ),
        _batch_divides,
    ),
    Rule(
        ("train.group_by_clip", "train.max_rows_per_group", "train.global_batch_rows", "model.attention"),
        _groups_have_effect,
    ),
    Rule(
        ("video.cache_features", "video.cache_limit_gb", "lora.train_vision_tower", "output.features"),
        _features_can_be_kept,
    ),
    Rule(
        (
            "train.eval_steps",
            "train.eval_answers",
            "train.early_stop_evals",
            "train.select_by",
            "export.checkpoint",
            "data.val",
            "data.val_fraction",
        ),
        _eval_has_rows,
    ),
    Rule(("eval.probes", "data.train", "data.val"), _probes_have_names),
    Rule(("train.select_by", "train.eval_answers", "parallel.strategy"), _choice_has_answers),
    Rule(("export.checkpoint", "train.early_stop_evals", "train.max_steps"), _choice_has_effect),
    Rule(("train.report_to",), _trackers_once),
    Rule(("export.merge", "export.dtype", "export.verify_rows", "export.keep_remote_code"), _export_has_effect),
    Rule(("train.max_skipped_steps", "parallel.strategy"), _steps_can_be_skipped),
    Rule(("export.keep_remote_code", "model.rope_precision"), _remote_code_computes_the_same),
)
