"""What features, or pixels, depend on apart from the clip, as a value that names a folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from cvft.dtypes import BY_SAFETENSORS, UINT8
from cvft.errors import FeatureError, Problem, did_you_mean, quote
from cvft.files import write_whole

KEY_FILE = "key.json"

Kind = Literal["features", "pixels"]
"""What is kept of clips: what the tower makes of their frames, or the frames."""

DTYPES = tuple(name for name, dtype in BY_SAFETENSORS.items() if dtype.num_bytes <= 4)
"""What a tower computes in, as safetensors names it."""

OF_TOWER = ("tower_sha256", "device", "attention")
"""Fields of a key that pixels do not depend on: no tower has seen them."""

SCHEMA_VERSION = 1
"""Version of the key's fields and of the files of a store."""

PREPROCESSING_VERSION = 1
"""Raised whenever the same frames reach the vision tower as other pixels: resized, cropped or normalised differently."""


@dataclass(frozen=True, kw_only=True)
class FeatureKey:
    """Everything but the clip that decides what is kept of it: features, or the pixels that a tower would take.

    Args:
        sampling: Frame sampling rule.
        max_frames: Most frames of a clip.
        decoder: Library that decodes.
        decoder_version: Its version.
        dtype: As safetensors names it: `BF16`, `F16` or `F32` for features, `U8` for pixels.
        tower_sha256: Identifies the weights of the vision tower; None for pixels, like the two that follow.
        device: Kind of device that computes: `cpu` or `cuda`.
        attention: Implementation of attention in the tower.
        fields: What else decides, by the family's own names: the size of a frame, say.
        preprocessing_version: See `PREPROCESSING_VERSION`.
        schema_version: See `SCHEMA_VERSION`.

    Raises:
        FeatureError: The dtype is none of those.
        AssertionError: Some of a tower is stated, and not all; or a tower for pixels.
    """

    sampling: str
    max_frames: int
    decoder: str
    decoder_version: str
    dtype: str
    tower_sha256: str | None = None
    device: str | None = None
    attention: str | None = None
    fields: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    preprocessing_version: int = PREPROCESSING_VERSION
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        known = (*DTYPES, UINT8.safetensors)
        if self.dtype not in known:
            need = f"one of {', '.join(map(quote, known))}"
            problem = Problem("dtype", quote(self.dtype), need, did_you_mean(self.dtype, known))
            raise FeatureError("the key of a store", [problem])
        stated = {getattr(self, name) is not None for name in OF_TOWER}
        assert stated == {self.kind == "features"}, "features have a tower, and pixels none"

    @property
    def kind(self) -> Kind:
        """What is kept of a clip."""
        return "pixels" if self.dtype == UINT8.safetensors else "features"

    @property
    def made(self) -> Literal["encoded", "decoded"]:
        """What is done with a clip to make it."""
        return "decoded" if self.kind == "pixels" else "encoded"

    def to_dict(self) -> dict[str, str | int | float | bool]:
        """Returns all that the key states side by side."""
        values = {name: value for name, value in asdict(self).items() if value is not None}
        own = values.pop("fields")
        return {**values, **own}

    def digest(self) -> str:
        """Returns the sha256 of the key's canonical JSON as 64 hex digits."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def write_key(folder: Path, key: FeatureKey) -> None:
    """Writes a store's key beside its shards, whole or not at all.

    Raises:
        OSError: The folder cannot be written.
    """
    write_whole(folder / KEY_FILE, json.dumps(key.to_dict(), indent=2) + "\n")


def check_key(folder: Path, key: FeatureKey) -> None:
    """Compares the key that a folder was made for with the one at hand.

    A folder without a key passes: it is new, or whoever made it was killed before anything was in it.

    Args:
        folder: Folder of one store.
        key: The key that leads there.

    Raises:
        FeatureError: with every field that differs.
    """
    subject = f"store {folder}"
    hint = f"remove this folder: its {key.kind} are made again"
    try:
        found = json.loads((folder / KEY_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    except (OSError, ValueError, RecursionError) as error:
        problem = Problem(KEY_FILE, f"a file that cannot be read ({error})", "the key of this store", hint)
        raise FeatureError(subject, [problem]) from error
    if not isinstance(found, dict):
        raise FeatureError(subject, [Problem(KEY_FILE, quote(found), "the key of this store", hint)])
    wanted = key.to_dict()
    problems = [
        Problem(f"{KEY_FILE}: {name}", quote(found.get(name)), quote(wanted.get(name)), hint)
        for name in sorted(found.keys() | wanted.keys())
        if name not in found or name not in wanted or found[name] != wanted[name]
    ]
    if problems:
        raise FeatureError(subject, problems)
