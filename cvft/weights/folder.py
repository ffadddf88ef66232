"""Model folders as plain files: what their config.json says, what identifies them, a clean view of them. No torch.

Official folders have no `model_type` and carry `auto_map`, so transformers would ask to run the code that lies in them.
Here config.json is read as plain JSON, and `make_clean_view` gives other libraries a folder that links the weights and
tokenizer files beside a configuration without `auto_map`. Code files are never linked, copied or run.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from cvft.errors import ModelError, Problem
from cvft.files import publish_folder
from cvft.json_files import JsonError, read_object
from cvft.weights.shards import read_shard, weight_files

CONFIG_FILE = "config.json"
TOKENIZER_FILE = "tokenizer.json"
CHECKSUM_FILE = "SHA256SUMS"
"""Checksums of a merged folder's weight files, in the form that `sha256sum -c` reads."""
ADAPTER_WEIGHTS_FILE = "adapter_model.safetensors"
"""Holds the weights of an adapter folder. Source: the folders that peft writes."""

CODE_SUFFIXES = (".py", ".pyc", ".so")
NUM_SAMPLED_BYTES = 1 << 20
NUM_SAMPLED_TENSOR_BYTES = 1 << 16


@dataclass(frozen=True)
class ModelFolder:
    """A model folder that was opened: nothing of its config.json is read again.

    Args:
        path: The folder.
        config: Its config.json.
        is_absent: Whether there is no folder, and the config is the one that is known of a published checkpoint: enough to plan.
    """

    path: Path
    config: Mapping[str, Any]
    is_absent: bool = False

    @classmethod
    def of(cls, folder: Self | Path | str) -> Self:
        """Opens a folder by reading its config.json; one that is open already is returned as it is.

        Raises:
            ModelError: when config.json is missing or broken.
        """
        if isinstance(folder, cls):
            return folder
        path = Path(str(folder))
        return cls(path, read_config_json(path))

    @cached_property
    def fingerprint(self) -> str:
        """Identifies the weights; see `weights_fingerprint`."""
        return weights_fingerprint(self.path)


def read_config_json(folder: Path) -> dict[str, Any]:
    """Reads a folder's config.json as plain JSON.

    Args:
        folder: Model folder.

    Returns:
        The file's keys and values.

    Raises:
        ModelError: when it is missing or broken.
    """
    path = folder / CONFIG_FILE
    subject = f"model {folder}"
    if not path.is_file():
        if (folder / "adapter_config.json").is_file():
            hint = f"train.resume_from={folder} starts from that adapter; a merged model can be model.path"
            raise ModelError(subject, [Problem(CONFIG_FILE, "no such file, but an adapter", "a model folder", hint)])
        if (folder / "merged" / CONFIG_FILE).is_file():
            hint = f"model.path={folder / 'merged'} is its merged model; train.resume_from={folder} starts from its adapter"
            raise ModelError(subject, [Problem(CONFIG_FILE, "no such file, but a run", "a model folder", hint)])
        hint = "is the path right, and the download complete?"
        raise ModelError(subject, [Problem(CONFIG_FILE, "no such file", "a model folder", hint)])
    try:
        return read_object(path)
    except JsonError as error:
        raise ModelError(subject, [Problem(CONFIG_FILE, str(error), "the published config.json")]) from error


def weights_fingerprint(folder: Path) -> str:
    """Identifies a folder's weights without reading all of them.

    Hashes name, size, first and last MiB of every safetensors file: the header with all tensor names and shapes is in the
    first. It tells checkpoints apart; it does not prove that the middle of a file is undamaged.

    Args:
        folder: Model folder.

    Returns:
        Hexadecimal sha256.
    """
    digest = hashlib.sha256()
    for path in weight_files(folder):
        num_bytes = path.stat().st_size
        digest.update(f"{path.name} {num_bytes}\n".encode())
        with path.open("rb") as file:
            digest.update(file.read(NUM_SAMPLED_BYTES))
            file.seek(max(0, num_bytes - NUM_SAMPLED_BYTES))
            digest.update(file.read())
    return digest.hexdigest()


def tower_fingerprint(folder: Path, prefixes: tuple[str, ...]) -> str:
    """Identifies the weights of a folder's vision tower without reading all of them.

    Hashes name, type, shape, first and last 64 KiB of every tensor of the tower. Training changes all elements of the tensors
    that it changes; a few flipped bits in the middle of one would not be seen.

    Args:
        folder: Model folder.
        prefixes: What the names of the tower's tensors start with.

    Returns:
        Hexadecimal sha256, the same for any sharding.

    Raises:
        ModelError: when a weight file is damaged, or holds nothing of a tower.
    """
    digests: dict[str, bytes] = {}
    for shard in map(read_shard, weight_files(folder)):
        with shard.path.open("rb") as file:
            for entry in shard.entries:
                if not entry.name.startswith(prefixes):
                    continue
                digest = hashlib.sha256(f"{entry.name} {entry.dtype} {list(entry.shape)}\n".encode())
                end = entry.begin + entry.num_bytes
                for start in (entry.begin, max(entry.begin, end - NUM_SAMPLED_TENSOR_BYTES)):
                    file.seek(start)
                    digest.update(file.read(min(NUM_SAMPLED_TENSOR_BYTES, end - start)))
                digests[entry.name] = digest.digest()
    if not digests:
        problem = Problem("weights", "no vision tower", "the published tensors", "is the download complete?")
        raise ModelError(f"model {folder}", [problem])
    return hashlib.sha256(b"".join(digests[name] for name in sorted(digests))).hexdigest()


def make_clean_view(folder: Path, destination: Path, *, config: Mapping[str, Any]) -> Path:
    """Makes a folder that other libraries can open without meeting the model's own code.

    Args:
        folder: Model folder.
        destination: Folder to make; replaced when it exists.
        config: What its config.json says there.

    Returns:
        `destination`.

    Raises:
        ModelError: when weights are missing.
    """
    weight_files(folder)
    aside = destination.with_name(f"{destination.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    for entry in sorted(folder.iterdir()):
        if entry.is_file() and entry.suffix not in CODE_SUFFIXES and entry.name != CONFIG_FILE:
            (aside / entry.name).symlink_to(os.path.relpath(entry.resolve(), aside.resolve()))
    (aside / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    publish_folder(aside, destination)
    return destination
