"""Checkpoints known by name: what one is, which path means one, the commands that download it. No torch, no network.

Which ones there are, the families say; whoever looks for one passes their tables in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint.

    Args:
        name: Last part of its repository's name, and of a folder that was downloaded from it.
        purpose: What it was trained for.
        template: Prompt template to ask it with, where its config.json cannot be believed.
        num_bytes: Size of its files.
        licence: Licence of the weights.
        owner: Owner of its repository on Hugging Face; empty where it has none.
        modelscope_owner: Owner of its repository on ModelScope; empty where it has none.
        former_owners: Owners before, from whom Hugging Face still leads there.
        config: What its config.json says, to plan without its files; empty where it is not known.
    """

    name: str
    purpose: str
    template: str
    num_bytes: int
    licence: str
    owner: str = ""
    modelscope_owner: str = ""
    former_owners: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def hugging_face_ids(self) -> tuple[str, ...]:
        """Its ids on Hugging Face, that of today first."""
        return tuple(f"{owner}/{self.name}" for owner in (self.owner, *self.former_owners) if owner)

    @property
    def modelscope_ids(self) -> tuple[str, ...]:
        """Its ids on ModelScope."""
        return (f"{self.modelscope_owner}/{self.name}",) if self.modelscope_owner else ()


def find_checkpoint(path: str, known: Iterable[Checkpoint]) -> Checkpoint | None:
    """Finds the checkpoint that a folder or hub id is named after; the owner and the case do not matter.

    Args:
        path: Such as `checkpoints/NAME` or `hf:OWNER/NAME`.
        known: Where to look.
    """
    text = path.lower()
    return next((checkpoint for checkpoint in known if checkpoint.name.lower() in text), None)


def download_commands(checkpoint: Checkpoint) -> list[str]:
    """Returns the commands that download a checkpoint, one per hub that has it."""
    return [
        *map(hugging_face_command, checkpoint.hugging_face_ids[:1]),
        *map(modelscope_command, checkpoint.modelscope_ids),
    ]


def hugging_face_command(model_id: str) -> str:
    """Returns the command that downloads a repository of Hugging Face into `checkpoints/`."""
    return f"hf download {model_id} --local-dir {_folder_for(model_id)}"


def modelscope_command(model_id: str) -> str:
    """Returns the command that downloads a repository of ModelScope into `checkpoints/`."""
    return f"modelscope download --model {model_id} --local_dir {_folder_for(model_id)}"


def _folder_for(model_id: str) -> str:
    return f"checkpoints/{model_id.rpartition('/')[2]}"
