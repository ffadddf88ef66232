"""The checkpoints that cvft knows by name: the four published ones, and the tiny one in the package. No torch, no network.

name of a folder or hub repository -> `Checkpoint`: what it is for, how it is asked, how large it is, whose licence it has
"""

from __future__ import annotations

from dataclasses import dataclass

HUGGING_FACE_OWNER = "zai-org"
"""Owner of the repositories on Hugging Face; THUDM before, which still leads there."""

MODELSCOPE_OWNER = "ZhipuAI"
"""Owner of the repositories on ModelScope."""

PUBLISHED_LICENCE = "CogVLM licence and Llama 3 licence"

PUBLISHED_BYTES = 25_025_703_042
"""All files of the caption checkpoint. Source: the repository's listing; the others' weights have the same sizes."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint.

    Args:
        name: Last part of its repository's name, and of a folder that was downloaded from it.
        purpose: What it was trained for.
        template: Prompt template to ask it with. Every published config.json says `base`, so the name has to tell.
        num_bytes: Size of its files.
        licence: Licence of the weights.
    """

    name: str
    purpose: str
    template: str
    num_bytes: int
    licence: str


PUBLISHED = tuple(
    Checkpoint(name, purpose, template, PUBLISHED_BYTES, PUBLISHED_LICENCE)
    for name, purpose, template in (
        ("cogvlm2-video-llama3-chat", "questions about a video, and moments in it", "chat"),
        ("cogvlm2-video-llama3-base", "pre-training only, a start for a model of your own", "base"),
        ("cogvlm2-llama3-caption", "long captions", "chat"),
        ("VisionReward-Video", "yes or no to a list of questions about quality", "chat"),
    )
)
"""The published checkpoints. Source: their model cards; template: the published demo's rule, `base` for the base checkpoint and
`chat` for all others, which for VisionReward-Video is an assumption."""

TINY = Checkpoint("tiny", "tests and demos, on a laptop; in the package", "chat", 6_600_000, "Apache-2.0, as cvft")


def find_published(path: str) -> Checkpoint | None:
    """Finds the published checkpoint that a folder or hub id is named after; the owner and the case do not matter.

    Args:
        path: Such as `checkpoints/cogvlm2-video-llama3-chat` or `THUDM/cogvlm2-video-llama3-base`.
    """
    name = path.lower()
    return next((checkpoint for checkpoint in PUBLISHED if checkpoint.name.lower() in name), None)


def describe_checkpoints() -> str:
    """Lists the checkpoints for the terminal, with the commands that download them."""
    lines = [f"{'name':<27}{'size':>8}  {'template':<10}{'for'}"]
    lines += [
        f"{each.name:<27}{each.num_bytes / 1e9:>5.2f} GB  {each.template:<10}{each.purpose} ({each.licence})"
        for each in (TINY, *PUBLISHED)
    ]
    lines += [
        "",
        "write OWNER/NAME as model.path, or get one and write its folder:",
        *(f"  {line}" for line in download_commands("NAME")),
    ]
    return "\n".join(lines)


def download_commands(name: str) -> list[str]:
    """Returns the two commands that download a published checkpoint, one per hub.

    Args:
        name: Last part of its repository's name.
    """
    folder = f"checkpoints/{name}"
    return [
        f"hf download {HUGGING_FACE_OWNER}/{name} --local-dir {folder}",
        f"modelscope download --model {MODELSCOPE_OWNER}/{name} --local_dir {folder}",
    ]
