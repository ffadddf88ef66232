"""What values a recipe may hold, below all of its sections: bounds, texts, paths, and how YAML's own become these.

Strict: a path is a text, a tuple is a list, and nothing else is turned into anything.
"""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

MAX_RUN_NAME_BYTES = 200
"""Longest name of a run, in UTF-8: disks take names of 255 bytes, and files that are written aside need some of them."""


MANY = 1_000_000_000
"""Most that any number of a recipe can mean: beyond it, libraries fail on the number itself."""

MOST_FRAMES = 10_000
"""Most frames of a clip that can be asked for: what a model was made for is less."""

MANY_PROCESSES = 1024
"""Most processes, threads or machines of a kind."""

HIGHEST_RANK = 16_384
"""Highest rank of an update: four times the width of the published checkpoints; a rank above the width adds nothing."""

MAX_PATH_BYTES = 4096
"""Longest path. Source: PATH_MAX of Linux."""

MAX_NAME_BYTES = 255
"""Longest name of a file or folder. Source: NAME_MAX of Linux."""

CEILINGS = (MANY, MANY_PROCESSES, HIGHEST_RANK, MOST_FRAMES)
"""Bounds that nobody meets by intention; a message names them only when one was passed."""


def why_unwritable(text: str) -> str:
    """Says why a text can be no path and no name on any disk or wire, or returns an empty text."""
    odd = next((char for char in text if char < " " or "\x7f" <= char <= "\x9f" or "\ud800" <= char <= "\udfff"), None)
    if odd is not None:
        return f"the character U+{ord(odd):04X} in it"
    if len(text.encode()) > MAX_PATH_BYTES:
        return f"{len(text.encode()):,} bytes of it"
    longest = max(len(name.encode()) for name in text.split("/"))
    return f"a name of {longest:,} bytes in it" if longest > MAX_NAME_BYTES else ""


def _refuse_unwritable(value: str | Path) -> str | Path:
    if why := why_unwritable(str(value)):
        raise ValueError(why)
    return value


def _refuse_lone_halves(value: str) -> str:
    if any("\ud800" <= char <= "\udfff" for char in value):
        raise ValueError("half of a character")
    return value


def _to_path(value: object) -> object:
    # Strict mode takes only Path objects; a YAML file can only say text. An empty text would silently mean ".".
    return Path(value) if isinstance(value, str) and value.strip() else value


def to_tuple(value: object) -> object:
    """Makes a tuple of a list: YAML has only lists, and a recipe is frozen."""
    return tuple(value) if isinstance(value, list) else value


def _to_composed(value: object) -> object:
    # keyboards and file systems write `é` as one character or as two: one name must not be two folders
    return unicodedata.normalize("NFC", value) if isinstance(value, str) else value


def _refuse_long_name(value: str) -> str:
    if len(value.encode()) > MAX_RUN_NAME_BYTES:
        raise ValueError(f"{len(value.encode())} bytes")
    return value


FilePath = Annotated[
    Path, BeforeValidator(_to_path), AfterValidator(_refuse_unwritable), PlainSerializer(str, return_type=str)
]
Text = Annotated[str, Field(min_length=1, pattern=r"^\S(.*\S)?$"), AfterValidator(_refuse_unwritable)]
WholeText = Annotated[str, AfterValidator(_refuse_lone_halves)]
"""A text that may be empty, as a person or a model wrote it."""
RunName = Annotated[
    str,
    Field(pattern=r"^[\p{L}\p{N}]([\p{L}\p{M}\p{N} ._-]*[\p{L}\p{M}\p{N}._-])?$", max_length=MAX_RUN_NAME_BYTES),
    BeforeValidator(_to_composed),
    AfterValidator(_refuse_long_name),
]
Files = Annotated[tuple[FilePath, ...], BeforeValidator(to_tuple)]
Targets = Annotated[
    Literal["qkv", "all-linear"] | Annotated[tuple[Text, ...], Field(min_length=1)], BeforeValidator(to_tuple)
]
HOST_PATTERN = r"^[A-Za-z0-9._:\[\]-]+$"
Hosts = Annotated[
    tuple[Annotated[str, Field(pattern=HOST_PATTERN, max_length=MAX_NAME_BYTES)], ...],
    BeforeValidator(to_tuple),
]


class Section(BaseModel):
    """Base of every section: frozen, strict about types, no unknown keys, finite numbers."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        validate_default=True,
    )
