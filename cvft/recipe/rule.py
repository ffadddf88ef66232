"""What a rule between settings is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cvft.errors import Problem

if TYPE_CHECKING:
    from cvft.recipe.schema import Recipe


@dataclass(frozen=True)
class Rule:
    """One rule: the key paths it reads, and the check that returns its problems."""

    reads: tuple[str, ...]
    check: Callable[[Recipe], Iterable[Problem]]
