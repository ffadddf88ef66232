"""What of a preprocessing is this family's own. No torch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any, Self

from cvft.families.family import FieldValue
from cvft.weights.folder import ModelFolder

NO_IMAGES = "this family trains on clips alone here"
"""Why a row may not show a picture in place of a clip."""

PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
"""Files of a model folder that say how transformers turns an image into pixels. Each folder has at least one of them."""

PACKAGES = {"swift_version": "ms-swift", "transformers_version": "transformers"}
"""Whose code makes the inputs: each field of a contract with its package."""


@dataclass(frozen=True)
class Inputs:
    """A preprocessing's own fields; they stand in contracts under these names.

    Args:
        system: System prompt; an empty one stands for none.
        frames: What is written for each frame, which is handed to ms-swift as an image.
        processor_sha256: Identifies the files that say how an image becomes pixels.
        swift_version: Version of ms-swift, whose template writes the text.
        transformers_version: Version of transformers, whose processor makes the pixels.
    """

    system: str
    frames: str
    processor_sha256: str
    swift_version: str
    transformers_version: str

    @classmethod
    def of(cls, fields: Mapping[str, FieldValue]) -> Self:
        """Reads the fields of a preprocessing."""
        values: Any = fields
        return cls(**values)

    def to_fields(self) -> dict[str, FieldValue]:
        """Returns them by their names in a contract."""
        return asdict(self)


def installed_versions() -> dict[str, str]:
    """Returns the versions of the packages that make the inputs here, by the names of their fields."""
    return {name: version(package) for name, package in PACKAGES.items()}


def hash_processor(folder: ModelFolder) -> str:
    """Hashes the files that say how an image becomes pixels, those that there are."""
    digest = hashlib.sha256()
    for name in PROCESSOR_FILES:
        path = folder.path / name
        if path.is_file():
            digest.update(name.encode() + b"\n" + path.read_bytes())
    return digest.hexdigest()
