"""The families that cvft trains, and which of them a model folder belongs to. No torch."""

from __future__ import annotations

from cvft.errors import ModelError
from cvft.families.cogvlm2_video import checkpoints as cogvlm2_video
from cvft.families.cogvlm2_video.family import COGVLM2_VIDEO
from cvft.families.family import Family, refuse_unknown
from cvft.families.qwen_vl import checkpoints as qwen_vl
from cvft.families.qwen_vl.family import FAMILIES as QWEN_VL
from cvft.weights.checkpoints import Checkpoint, hugging_face_command, modelscope_command
from cvft.weights.folder import ModelFolder

FAMILIES: tuple[Family, ...] = (COGVLM2_VIDEO, *QWEN_VL)
"""One row per family; the first that recognises a config.json has it."""

SHIPPED_CHECKPOINTS = (cogvlm2_video.TINY, qwen_vl.TINY)
"""Those of the package; `cvft.shipped` says where they lie."""


def find_family(folder: ModelFolder) -> Family:
    """Finds the family of a model folder by its config.json.

    Raises:
        ModelError: when it is none of ours, or its config.json cannot be carried out.
    """
    for family in FAMILIES:
        if family.recognises(folder.config):
            if problems := family.check_folder(folder):
                raise ModelError(f"model {folder.path}", problems)
            return family
    raise refuse_unknown(folder, FAMILIES)


def known_checkpoints() -> list[Checkpoint]:
    """Returns the published checkpoints of all families."""
    return [checkpoint for family in FAMILIES for checkpoint in family.checkpoints]


def family_named(name: str) -> Family:
    """Returns the family of a name that a plan states."""
    return next(family for family in FAMILIES if family.name == name)


def describe_checkpoints() -> str:
    """Lists the checkpoints for the terminal, with the commands that download them."""
    lines = [f"{'name':<27}{'size':>8}  {'template':<10}{'for'}"]
    lines += [
        f"{each.name:<27}{each.num_bytes / 1e9:>5.2f} GB  {each.template:<10}{each.purpose} ({each.licence})"
        for each in (*SHIPPED_CHECKPOINTS, *known_checkpoints())
    ]
    for owner, modelscope_owner in dict.fromkeys((each.owner, each.modelscope_owner) for each in known_checkpoints()):
        lines += [
            "",
            f"write {owner}/NAME as model.path, or ms:{modelscope_owner}/NAME to fetch it from ModelScope;",
            "hf:OWNER/NAME or ms:OWNER/NAME for any other repository; or get one and write its folder:",
            f"  {hugging_face_command(f'{owner}/NAME')}",
            f"  {modelscope_command(f'{modelscope_owner}/NAME')}",
        ]
    return "\n".join(lines)
