"""The families that cvft trains, and which of them a model folder belongs to. No torch."""

from __future__ import annotations

from cvft.errors import ModelError
from cvft.families.any_swift.family import FAMILIES as ANY_SWIFT
from cvft.families.any_swift.models import why_refused
from cvft.families.cogvlm2_video import checkpoints as cogvlm2_video
from cvft.families.cogvlm2_video.family import COGVLM2_VIDEO
from cvft.families.family import Family
from cvft.families.glm4v.family import GLM4V
from cvft.families.internvl.family import INTERNVL
from cvft.families.qwen_vl import checkpoints as qwen_vl
from cvft.families.qwen_vl.family import FAMILIES as QWEN_VL
from cvft.families.unknown import refuse_unknown
from cvft.weights.checkpoints import Checkpoint, hugging_face_command, modelscope_command
from cvft.weights.folder import ModelFolder

FAMILIES: tuple[Family, ...] = (COGVLM2_VIDEO, *QWEN_VL, INTERNVL, GLM4V, *ANY_SWIFT)
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
    raise refuse_unknown(folder, FAMILIES, reason=why_refused(folder.config))


def known_checkpoints() -> list[Checkpoint]:
    """Returns the published checkpoints of all families."""
    return [checkpoint for family in FAMILIES for checkpoint in family.checkpoints]


def family_named(name: str) -> Family:
    """Returns the family of a name that a plan states."""
    return next(family for family in FAMILIES if family.name == name)


def describe_checkpoints() -> str:
    """Lists the checkpoints for the terminal by family, with what each can do and the commands that download them."""
    width = max(len(each.name) for each in (*SHIPPED_CHECKPOINTS, *known_checkpoints())) + 2
    lines = [
        f"{'name':<{width}}{'size':>9}  {'template':<10}for",
        *(_line(each, width) for each in SHIPPED_CHECKPOINTS),
    ]
    for family in FAMILIES:
        lines += ["", f"{family.title}: {_describe_capabilities(family)}"]
        lines += [_line(each, width) for each in family.checkpoints]
        if not family.checkpoints:
            lines.append(
                f"no checkpoint by name: write the folder or hub id of any {' or '.join(family.architectures)}"
            )
    for owner, modelscope_owner in dict.fromkeys((each.owner, each.modelscope_owner) for each in known_checkpoints()):
        lines += [
            "",
            f"write {owner}/NAME as model.path, or ms:{modelscope_owner}/NAME to fetch it from ModelScope;",
            "hf:OWNER/NAME or ms:OWNER/NAME for any other repository; or get one and write its folder:",
            f"  {hugging_face_command(f'{owner}/NAME')}",
            f"  {modelscope_command(f'{modelscope_owner}/NAME')}",
        ]
    return "\n".join(lines)


def _line(checkpoint: Checkpoint, width: int) -> str:
    size = f"{checkpoint.num_bytes / 1e9:>6.2f} GB"
    return f"{checkpoint.name:<{width}}{size}  {checkpoint.template:<10}{checkpoint.purpose} ({checkpoint.licence})"


def _describe_capabilities(family: Family) -> str:
    can = family.capabilities
    said = {
        "rows of one clip train together": can.groups is True,
        "rows of one clip train together where a model proves equal": can.groups == "proven",
        "features of a frozen tower are cached": can.features is True,
        "features of a frozen tower are cached where a model proves equal": can.features == "proven",
        "merges are compared by their logits": can.label_logits,
    }
    return ", ".join(sentence for sentence, holds in said.items() if holds) or "training of single rows"
