"""The settings' key paths, and which one a reader meant by another name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from cvft.errors import did_you_mean, nearest, quote
from cvft.recipe.foreign import FOREIGN_NAMES, NOT_SUPPORTED, NOT_SUPPORTED_BEGINNINGS
from cvft.recipe.schema import Recipe

LIKENESS = 0.75
"""How alike two names have to be for one to be meant by the other, from 0 to 1; `report_to` and `dropout` are 0.5 alike."""

LIKENESS_ELSEWHERE = 0.86
"""The same for a name of another section; `hub_strategy` and `strategy` are 0.8 alike, and mean nothing alike."""

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

    The same name in another section comes first, then another trainer's word, then a near name. Where none is near, nothing
    is guessed.
    """
    if path in REMOVED:
        return REMOVED[path]
    section, _, key = path.rpartition(".")
    known = key_names(section)
    if section and not known:  # the section itself is misspelt or does not exist
        if section in (path for path, _ in iter_fields()):
            return f"did you mean {quote(section)}?"
        moved = _elsewhere(key)
        near = nearest(section, section_names(), count=1, likeness=LIKENESS)
        if near and key in key_names(near[0]):
            return f"did you mean {quote(f'{near[0]}.{key}')}?"
        return moved or _elsewhere(section) or did_you_mean(section, section_names(), likeness=LIKENESS)
    exact = _elsewhere(key)
    if exact:
        return exact
    near_here = did_you_mean(key, known if section else [*known, "extends"], likeness=LIKENESS)
    if near_here:
        return near_here
    near_names = nearest(
        key, [path.rpartition(".")[2] for path, _ in iter_fields()], count=1, likeness=LIKENESS_ELSEWHERE
    )
    return _elsewhere(near_names[0]) if near_names else ""


def _elsewhere(key: str) -> str:
    paths = [path for path, _ in iter_fields() if path.rpartition(".")[2] == key]
    word = key.lower().replace("-", "_")
    if not paths and word in FOREIGN_NAMES:
        return f"that setting is called {quote(FOREIGN_NAMES[word])} here"
    if not paths and word in NOT_SUPPORTED:
        return f"not supported: {NOT_SUPPORTED[word]}"
    if not paths:
        reasons = (reason for begin, reason in NOT_SUPPORTED_BEGINNINGS.items() if word.startswith(begin))
        return next((f"not supported: {reason}" for reason in reasons), "")
    return f"that setting is {' or '.join(quote(path) for path in paths)}"
