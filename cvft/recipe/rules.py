"""Rules between settings: each refuses one combination and says which other value would do.

A rule names the settings it reads, so that nobody hears twice that one of them is wrong. They stand in three files, by what goes
in (`input_rules`), how it trains (`training_rules`) and what comes out (`result_rules`); problems are told in that order.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from cvft.errors import Problem, RecipeError
from cvft.recipe.input_rules import INPUT_RULES
from cvft.recipe.result_rules import RESULT_RULES
from cvft.recipe.training_rules import TRAINING_RULES

if TYPE_CHECKING:
    from cvft.recipe.schema import Recipe

RULES = (*INPUT_RULES, *TRAINING_RULES, *RESULT_RULES)


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
