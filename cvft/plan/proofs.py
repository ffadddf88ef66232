"""Proofs that rows of one clip may train together, kept beside the runs: one per model, inputs, precision and clip. No torch.

`Job` + first rows that share a clip -> key -> OUTPUT/.proofs/KEY.json -> `GroupProof`
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cvft.data.groups import RowShape
from cvft.data.rows import Row
from cvft.data.video.process import ClipInfo
from cvft.data.video.spec import ClipRef, content_of
from cvft.families.family import Preprocessing
from cvft.families.proof import GroupProof
from cvft.files import write_whole
from cvft.json_files import JsonError, read_object
from cvft.plan.job import Job

PROOFS_FOLDER = ".proofs"
"""Beside the runs, under a name that no run can have."""

PACKAGES = ("torch", "transformers", "ms-swift")
"""Whose versions may change what a proof finds."""


@dataclass(frozen=True)
class ProofRequest:
    """What a proof is made of; the process that makes it reads this.

    Args:
        family: Name of the model's family.
        folder: The model folder.
        preprocessing: How rows reach the model.
        dtype: `bf16` or `fp32`.
        attention: transformers' name of the decoder's attention.
        device: `cpu` or `cuda`.
        clip: The clip's file.
        clip_sha256: Identifies it.
        system: The rows' own system text; None where they have none.
        rows: Query and response of two rows about it.
    """

    family: str
    folder: Path
    preprocessing: Preprocessing
    dtype: str
    attention: str
    device: str
    clip: ClipRef
    clip_sha256: str
    system: str | None
    rows: Sequence[tuple[str, str]]


def request_proof(
    job: Job, *, rows: Sequence[Row], shapes: Sequence[RowShape], clips: Mapping[ClipRef, ClipInfo], attention: str
) -> ProofRequest:
    """Chooses the first clip that two rows with a question share, and its first two.

    Args:
        job: The job.
        rows: The rows that train, of which two share a clip.
        shapes: Their lengths.
        clips: Facts per clip.
        attention: transformers' name of the decoder's attention.
    """
    by_clip: dict[tuple[int, int | None], list[Row]] = {}
    pair: list[Row] = []
    for row, shape in zip(rows, shapes, strict=True):
        if shape.shared is not None and shape.has_question:
            pair = by_clip.setdefault(shape.shared, [])
            pair.append(row)
            if len(pair) == 2:
                break
    first = pair[0].video
    assert len(pair) == 2, "whoever asks has looked"
    assert first is not None, "it has a clip"
    return ProofRequest(
        family=job.family.name,
        folder=job.model.path.absolute(),
        preprocessing=job.preprocessing,
        dtype=job.recipe.model.dtype,
        attention=attention,
        device=job.ranks.device,
        clip=first,
        clip_sha256=content_of(first, clips[first].sha256),
        system=pair[0].system,
        rows=[(row.query, row.response) for row in pair],
    )


def proof_file(job: Job, request: ProofRequest) -> Path:
    """Returns where a proof is kept; fingerprints the weights."""
    key: dict[str, Any] = {
        **job.contract.to_dict(),
        **{name: value for name, value in asdict(request).items() if name not in ("folder", "preprocessing", "clip")},
        "packages": {name: version(name) for name in PACKAGES},
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return job.recipe.output.root.absolute() / PROOFS_FOLDER / f"{digest[:32]}.json"


def find_proof(
    job: Job, *, rows: Sequence[Row], shapes: Sequence[RowShape], clips: Mapping[ClipRef, ClipInfo], attention: str
) -> GroupProof | None:
    """Finds a proof that an earlier training has kept, where the weights are there to know the model by.

    Args:
        job: The job.
        rows: The rows that train, of which two share a clip.
        shapes: Their lengths.
        clips: Facts per clip.
        attention: transformers' name of the decoder's attention.
    """
    if job.model.folder.is_absent or not any(job.model.path.glob("*.safetensors")):
        return None
    request = request_proof(job, rows=rows, shapes=shapes, clips=clips, attention=attention)
    return read_proof(proof_file(job, request))


def read_proof(path: Path) -> GroupProof | None:
    """Reads a kept proof; None where there is none that can be read, so that it is made again."""
    if not path.is_file():
        return None
    try:
        values = read_object(path)
        holds, finding = values["holds"], values["finding"]
    except (JsonError, KeyError):
        return None
    return GroupProof(holds, finding) if isinstance(holds, bool) and isinstance(finding, str) else None


def keep_proof(path: Path, proof: GroupProof) -> None:
    """Keeps a proof for the next training of the same model on the same clip."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(asdict(proof), indent=2) + "\n")
