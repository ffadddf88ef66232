"""The preprocessing contract: what a model was fed in training, stored beside its weights and enforced ever after.

An adapter answers well only when clips and text reach it exactly as they did in training. The contract travels as
`cvft_contract.json` in the adapter folder and in the merged folder; evaluation, inference and export read it from there.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from cvft.errors import ContractError, Problem, quote

CONTRACT_FILE = "cvft_contract.json"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Contract:
    """Everything between a row and the model's inputs.

    Args:
        template: Prompt template.
        sampling: Frame sampling rule.
        max_frames: Most frames of a clip.
        decoder: Library that decodes.
        decoder_version: Its version, for the record: versions are not held equal.
        image_size: Side of a frame in pixels.
        num_tokens_per_frame: Vision tokens of a frame.
        rope_precision: Precision of the rotary table.
        base_fingerprint: Identifies the base weights; see `weights_fingerprint`.
        tokenizer_sha256: Identifies tokenizer.json.
        schema_version: Version of this list of fields.
    """

    template: str
    sampling: str
    max_frames: int
    decoder: str
    decoder_version: str
    image_size: int
    num_tokens_per_frame: int
    rope_precision: str
    base_fingerprint: str
    tokenizer_sha256: str
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> str:
        """Returns the text of the contract's file."""
        return json.dumps(asdict(self), indent=2) + "\n"


RECORDED_ONLY = ("decoder_version",)


def read_contract(folder: Path) -> Contract:
    """Reads the contract beside an adapter's or merged model's weights.

    Args:
        folder: Adapter or merged folder.

    Raises:
        ContractError: when there is none, or when it is of another version.
    """
    path = folder / CONTRACT_FILE
    subject = f"folder {folder}"
    if not path.is_file():
        need = "the contract that cvft stores beside trained weights"
        hint = "give an adapter or merged folder that cvft wrote"
        raise ContractError(subject, [Problem(CONTRACT_FILE, "no such file", need, hint)])
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        contract = Contract(**values)
    except (ValueError, TypeError) as error:
        problem = Problem(
            CONTRACT_FILE, f"{error}", f"the fields of version {SCHEMA_VERSION}", "was it edited by hand?"
        )
        raise ContractError(subject, [problem]) from error
    return contract


def check_contract(stored: Contract, wanted: Contract, *, folder: Path) -> None:
    """Holds what would be used now against what was used in training.

    Args:
        stored: From the adapter's folder.
        wanted: From the recipe and base model at hand.
        folder: The adapter's folder, for the message.

    Raises:
        ContractError: with every field that differs.
    """
    problems = [
        Problem(field.name, quote(getattr(wanted, field.name)), f"{quote(getattr(stored, field.name))} as in training")
        for field in fields(Contract)
        if field.name not in RECORDED_ONLY and getattr(stored, field.name) != getattr(wanted, field.name)
    ]
    if problems:
        raise ContractError(f"adapter {folder}", problems)
