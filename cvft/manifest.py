"""What a run was made of, as its training recorded it: `RUN/manifest.json`, read strictly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter

from cvft.errors import RunError
from cvft.json_files import read_as
from cvft.runs import RunFolder

MAX_MANIFEST_BYTES = 1 << 30
"""A manifest has a line for each clip, of which there may be millions."""


@dataclass(frozen=True)
class ManifestBase:
    """Where a run's base model came from.

    Args:
        path: What the recipe called it.
        hub: The hub that it was fetched from, or None.
        id: Its name there, or None.
        commit: Its commit there, or None.
    """

    path: str
    hub: Literal["huggingface", "modelscope"] | None
    id: str | None
    commit: str | None


@dataclass(frozen=True)
class ManifestRows:
    """The rows of a run.

    Args:
        num_train: Rows to train on.
        num_val: Rows held out.
        num_quarantined: Rows set aside because their clip is bad.
        train_sha256: Hash of `data/train.jsonl`.
        val_sha256: Hash of `data/val.jsonl`, or None when there is none.
    """

    num_train: int
    num_val: int
    num_quarantined: int
    train_sha256: str
    val_sha256: str | None


@dataclass(frozen=True)
class ManifestClip:
    """A clip of a run.

    Args:
        sha256: Hash of the file.
        num_frames: Frames that the model sees of it.
        duration_s: Its length in seconds.
        url: What it was fetched from, without query; None for a file.
    """

    sha256: str
    num_frames: int
    duration_s: float
    url: str | None = None


@dataclass(frozen=True)
class Manifest:
    """What others ask of a run's manifest, which holds more.

    Args:
        cvft: Version that trained it.
        packages: Version of each package, or None where one was not installed.
        base: Its base model.
        rows: Its rows.
        clips: Its clips by path, or by the text of `cvft.data.video.spec.to_text` where they are more than a file.
        contract: How clips and text reached the model.
        sources: What tells the files that the rows came from, by their setting; empty where it was not recorded.
        python: Version of Python.
        git_commit: The commit of the checkout that trained, or None for an installed package.
        machine: Kind of processor.
        device: What it was trained on.
        num_ranks: Processes that trained.
    """

    cvft: str
    packages: Mapping[str, str | None]
    base: ManifestBase
    rows: ManifestRows
    clips: Mapping[str, ManifestClip]
    contract: Mapping[str, Any]
    sources: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    python: str = ""
    git_commit: str | None = None
    machine: str = ""
    device: str = ""
    num_ranks: int = 1
    __pydantic_config__ = ConfigDict(strict=True)


_MANIFEST = TypeAdapter(Manifest)


def read_manifest(folder: RunFolder) -> Manifest:
    """Reads what a run was made of.

    Raises:
        RunError: when the file is not there, or is not what a training wrote.
    """
    path = folder.manifest_file
    hint = f"bring {path.name} back from a copy of the folder, or train under another name (name=...)"
    return read_as(
        path,
        _MANIFEST,
        error=RunError,
        subject=f"run folder {folder.path}",
        need="the manifest that the training wrote",
        hint=hint,
        max_bytes=MAX_MANIFEST_BYTES,
    )
