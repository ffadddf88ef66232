"""The preprocessing contract: how rows reached a model in training, stored beside its weights and enforced ever after.

An adapter answers well only when clips and text reach it exactly as they did in training. The contract travels as
`cvft_contract.json` in the adapter folder and in the merged folder; evaluation, inference and export read it from there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from cvft.errors import ContractError, Problem, quote
from cvft.json_files import JsonError, Need, check_object, read_json, show, text, whole_number

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
        decoder_version: Its version, for the record: versions are not compared.
        base_fingerprint: Identifies the base weights; see `weights_fingerprint`.
        tokenizer_sha256: Identifies tokenizer.json.
        fields: The family's own fields; in the file they stand beside the others.
        schema_version: Version of this list of fields.
    """

    template: str
    sampling: str
    max_frames: int
    decoder: str
    decoder_version: str
    base_fingerprint: str
    tokenizer_sha256: str
    fields: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    def to_dict(self) -> dict[str, Any]:
        """Returns the contract as plain values, all fields side by side."""
        values = asdict(self)
        own = values.pop("fields")
        version = values.pop("schema_version")
        return {**values, **own, "schema_version": version}

    def to_json(self) -> str:
        """Returns the text of the contract's file."""
        return json.dumps(self.to_dict(), indent=2) + "\n"


HINT = "was it edited by hand?"

NEEDS = {
    "template": text(100),
    "sampling": text(100),
    "max_frames": whole_number(1, 100_000),
    "decoder": text(100),
    "decoder_version": text(100),
    "base_fingerprint": text(100),
    "tokenizer_sha256": text(100),
    "schema_version": Need(f"version {SCHEMA_VERSION}", whole_number(SCHEMA_VERSION, SCHEMA_VERSION).accepts),
}
"""What the common fields have to be; which templates, rules and decoders there are, others know."""

RECORDED_ONLY = ("decoder_version",)

_HINTS = {"base_fingerprint": "another base: --base FOLDER says where that of the training lies by now"}

COMMON = tuple(each.name for each in fields(Contract) if each.name != "fields")


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
        hint = "give an adapter or merged folder that cvft wrote, or a model by a name that `cvft models` lists"
        raise ContractError(subject, [Problem(CONTRACT_FILE, "no such file", need, hint)])
    try:
        values = read_json(path)
    except JsonError as error:
        raise _unfit(str(error), subject=subject, where=CONTRACT_FILE) from error
    return contract_from_dict(values, subject=subject, where=CONTRACT_FILE)


def contract_from_dict(values: Any, *, subject: str, where: str) -> Contract:
    """Builds a contract from what `Contract.to_dict` returned.

    Args:
        values: All fields side by side.
        subject: What holds them, for the headline of the error.
        where: The place in it.

    Raises:
        ContractError: when it is no contract, or one of another version.
    """
    if not isinstance(values, dict):
        raise _unfit(show(values), subject=subject, where=where)
    problems = check_object(
        values, NEEDS, where=where, others=lambda key, value: _judge(key, value, where=where), hint=HINT
    )
    if problems:
        raise ContractError(subject, problems)
    common = {name: values[name] for name in COMMON}
    own = {name: value for name, value in values.items() if name not in COMMON}
    return Contract(**common, fields=own)


def _judge(key: str, value: Any, *, where: str) -> Problem | None:
    """Says what is wrong with a family's own field; which there are, the family says."""
    if isinstance(value, str | int | float):
        return None
    return Problem(f"{where}: {key}", show(value), "text, a number, true or false", HINT)


def _unfit(got: str, *, subject: str, where: str) -> ContractError:
    return ContractError(subject, [Problem(where, got, f"the fields of version {SCHEMA_VERSION}", HINT)])


def check_contract(stored: Contract, wanted: Contract, *, folder: Path) -> None:
    """Compares what would be used now with what was used in training.

    Args:
        stored: From the adapter's folder.
        wanted: From the recipe and base model at hand.
        folder: The adapter's folder, for the message.

    Raises:
        ContractError: with every field that differs.
    """
    before, now = stored.to_dict(), wanted.to_dict()
    problems = [
        Problem(name, quote(now.get(name)), f"{quote(before.get(name))} as in training", _HINTS.get(name, ""))
        for name in dict.fromkeys([*now, *before])
        if name not in RECORDED_ONLY and before.get(name) != now.get(name)
    ]
    if problems:
        raise ContractError(f"adapter {folder}", problems)
