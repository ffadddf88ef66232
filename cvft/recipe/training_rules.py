"""Rules between the settings of how it trains: ranks, batches, groups, cached features."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from cvft.errors import Problem, quote
from cvft.recipe.rule import Rule

if TYPE_CHECKING:
    from cvft.recipe.schema import Recipe


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
            "`auto`, `pixels` or `off`: features of a tower that learns change with every step",
            "set `video.cache_features: auto`",
        )
    if recipe.video.cache_features == "off" and recipe.video.cache_limit_gb is not None:
        yield Problem(
            "video.cache_limit_gb",
            f"{quote(recipe.video.cache_limit_gb)} with `video.cache_features` off",
            "no such setting: nothing is kept of clips",
            "remove it, or set `video.cache_features: auto`",
        )
    if recipe.video.cache_features == "off" and recipe.output.features is not None:
        yield Problem(
            "output.features",
            "a folder with `video.cache_features` off",
            "no such setting: nothing is kept of clips",
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


TRAINING_RULES: tuple[Rule, ...] = (
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
)
