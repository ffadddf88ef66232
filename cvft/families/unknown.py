"""What is said of a model folder that no family recognises. No torch."""

from __future__ import annotations

from collections.abc import Sequence

from cvft.errors import ModelError, Problem, quote
from cvft.families.family import Family
from cvft.weights.folder import ModelFolder


def refuse_unknown(folder: ModelFolder, families: Sequence[Family], *, reason: str = "") -> ModelError:
    """Makes the error for a folder that is none of some families'.

    Args:
        folder: The folder.
        families: What is trained.
        reason: What stands in the way of this one, where that is known.
    """
    known = [name for family in families for name in family.architectures]
    checkpoints = ", ".join(checkpoint.name for family in families for checkpoint in family.checkpoints)
    titles = ", ".join(family.title for family in families)
    problem = Problem(
        "config.json: architectures",
        quote(folder.config.get("architectures")),
        " or ".join(map(quote, known)),
        f"{reason and f'{reason}; '}cvft trains {titles} checkpoints ({checkpoints})",
    )
    return ModelError(f"model {folder.path}", [problem])
