"""Which settings this machine would refuse, asked of the code that refuses them when a run starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from cvft.data.video.versions import find_missing_decoder
from cvft.errors import CvftError, Problem
from cvft.plan.environment import check_shell
from cvft.plan.machine import check_packages
from cvft.plan.ranks import decide_ranks
from cvft.recipe import recipe_from_dict
from cvft.recipe.schema import Tracker

SETTINGS: tuple[tuple[str, str, Any], ...] = (
    ("parallel", "device", "cuda"),
    *(("parallel", "strategy", name) for name in ("zero1", "zero2", "zero2_offload", "zero3")),
    *(("model", "quantize", name) for name in ("nf4", "int8")),
    *(("train", "report_to", [name]) for name in get_args(Tracker)),
)
"""Section, key and value of what needs something beyond what every installation has."""


@dataclass(frozen=True)
class Refused:
    """A setting that a run on this machine would be refused for.

    Args:
        setting: The setting, as an override is written; `any` when every training would be.
        problem: What the run would say.
    """

    setting: str
    problem: Problem


def find_refused(*, num_gpus: int, shell: Mapping[str, str]) -> list[Refused]:
    """Asks for every setting whether it would be refused.

    Args:
        num_gpus: GPUs that this machine shows.
        shell: Its environment variables.
    """
    refused = [Refused("any", problem) for problem in _problems(lambda: check_shell(shell))]
    for section, key, value in SETTINGS:
        shown = f"{section}.{key}={value[0] if isinstance(value, list) else value}"
        refused += [Refused(shown, problem) for problem in _refuse(section, key, value, num_gpus=num_gpus)]
    missing = find_missing_decoder("decord")
    return refused if missing is None else [*refused, Refused("video.decoder=decord", missing)]


def _refuse(section: str, key: str, value: Any, *, num_gpus: int) -> list[Problem]:
    values: dict[str, dict[str, Any]] = {"model": {"path": "tiny"}, "data": {"train": "train.jsonl"}}
    recipe = recipe_from_dict({**values, section: {**values.get(section, {}), key: value}})
    of_packages = _problems(lambda: check_packages(recipe))
    return of_packages + _problems(lambda: decide_ranks(recipe, num_gpus_present=num_gpus))


def _problems(check: Callable[[], object]) -> list[Problem]:
    try:
        check()
    except CvftError as error:
        return list(error.problems)
    return []
