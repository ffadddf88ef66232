"""The families that cvft trains, and which of them a model folder belongs to. No torch."""

from __future__ import annotations

from cvft.errors import ModelError, Problem, quote
from cvft.families.cogvlm2_video.checkpoints import describe_checkpoints
from cvft.families.cogvlm2_video.family import COGVLM2_VIDEO
from cvft.families.family import Family
from cvft.weights.checkpoints import Checkpoint
from cvft.weights.folder import ModelFolder

__all__ = ["FAMILIES", "describe_checkpoints", "family_named", "find_family"]

FAMILIES: tuple[Family, ...] = (COGVLM2_VIDEO,)
"""One row per family; the first that recognises a config.json has it."""


def find_family(folder: ModelFolder) -> Family:
    """Finds the family of a model folder by its config.json.

    Raises:
        ModelError: when it is none of ours.
    """
    for family in FAMILIES:
        if family.recognises(folder.config):
            return family
    known = [name for family in FAMILIES for name in family.architectures]
    checkpoints = ", ".join(checkpoint.name for family in FAMILIES for checkpoint in family.checkpoints)
    titles = ", ".join(family.title for family in FAMILIES)
    problem = Problem(
        "config.json: architectures",
        quote(folder.config.get("architectures")),
        " or ".join(map(quote, known)),
        f"cvft trains {titles} checkpoints ({checkpoints})",
    )
    raise ModelError(f"model {folder.path}", [problem])


def known_checkpoints() -> list[Checkpoint]:
    """Returns the published checkpoints of all families."""
    return [checkpoint for family in FAMILIES for checkpoint in family.checkpoints]


def family_named(name: str) -> Family:
    """Returns the family of a name that a plan states."""
    return next(family for family in FAMILIES if family.name == name)
