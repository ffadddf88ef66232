"""How the files of a tiny model's checkpoint folder are written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import save_file

if TYPE_CHECKING:
    from cvft.tiny.architecture import Architecture


def write_json(value: dict[str, Any], path: Path) -> None:
    """Writes a JSON file as the shipped ones are written."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_checkpoint(architecture: Architecture, *, folder: Path, record: dict[str, Any]) -> None:
    """Writes a folder that loads like a published checkpoint.

    Args:
        architecture: The model; its weights are saved in fp32 under the published names.
        folder: Made when missing; files of the same names are replaced, the weights in one move.
        record: What training_record.json says.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.detach().float().contiguous() for name, value in architecture.model.state_dict().items()}
    save_file(weights, folder / "model.safetensors.part", metadata={"format": "pt"})
    (folder / "model.safetensors.part").chmod(0o644)  # safetensors writes for the owner only
    (folder / "model.safetensors.part").replace(folder / "model.safetensors")
    architecture.write_files(folder)
    write_json(record, folder / "training_record.json")
