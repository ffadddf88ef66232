"""Proofs that rows of one clip may train together, and from cached features, kept beside the runs. No torch.

`Job` + first rows that share a clip -> key of model, inputs, precision and clip -> OUTPUT/.proofs/KEY.json -> `Proofs`
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from cvft.data.groups import RowShape, Shared
from cvft.data.rows import Row
from cvft.data.video.process import ClipInfo
from cvft.data.video.spec import ClipRef, content_of
from cvft.families.family import Preprocessing
from cvft.families.proof import FeatureProof, GroupProof, Proofs, Wanted
from cvft.files import write_whole
from cvft.plan.batching import RowFacts, count_steps, decide_limits
from cvft.plan.caching import decide_cache
from cvft.plan.job import Job
from cvft.plan.swift_arguments import ATTENTION_DEFAULT

PROOFS_FOLDER = ".proofs"
"""Beside the runs, under a name that no run can have."""

PACKAGES = ("torch", "transformers", "ms-swift")
"""Whose versions may change what a proof finds."""


AS_IF_GROUPS, AS_IF_CACHED = GroupProof(True, "as if"), FeatureProof(True, "as if")


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
        rows: Query and response of one row about it, or of two.
        groups: Whether the two are trained together.
        features: Whether the first is trained from cached features.
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
    groups: bool
    features: bool


def wanted_proofs(job: Job, *, rows: RowFacts) -> Sequence[Wanted]:
    """Tells what would be done if this model proved equal, of what is not known of its whole family.

    Raises:
        RecipeError: as `decide_limits`.
    """
    can, wanted = job.family.capabilities, list[Wanted]()
    if can.groups == "proven" and decide_limits(job, rows=rows, proof=AS_IF_GROUPS).max_rows_per_group > 1:
        wanted.append("groups")
    if can.features == "proven" and any(shape.clips for shape in rows.train):
        limits, num_epochs = decide_limits(job, rows=rows), count_steps(job, rows).epochs
        as_if = decide_cache(job, rows=rows, limits=limits, num_epochs=num_epochs, proof=AS_IF_CACHED)
        if as_if.kind == "features":
            wanted.append("features")
    return wanted


def request_proofs(
    job: Job,
    wanted: Collection[Wanted],
    *,
    rows: Sequence[Row],
    shapes: Sequence[RowShape],
    clips: Mapping[ClipRef, ClipInfo],
) -> ProofRequest:
    """Chooses the first clip that two rows with a question share, and its first two; where one row is enough, the first of all.

    Args:
        job: The job.
        wanted: What is to be proven.
        rows: The rows that train, of which some have a clip, and two of them share one where groups are to be proven.
        shapes: Their lengths.
        clips: Facts per clip.
    """
    num_rows = 2 if "groups" in wanted else 1
    by_clip: dict[Shared, list[Row]] = {}
    chosen: list[Row] = []
    for row, shape in zip(rows, shapes, strict=True):
        if shape.shared is not None and (shape.has_question or num_rows == 1):
            chosen = by_clip.setdefault(shape.shared, [])
            chosen.append(row)
            if len(chosen) == num_rows:
                break
    assert len(chosen) == num_rows, "whoever asks has looked"
    (first,) = chosen[0].videos
    return ProofRequest(
        family=job.family.name,
        folder=job.model.path.absolute(),
        preprocessing=job.preprocessing,
        dtype=job.recipe.model.dtype,
        attention=job.recipe.attention or ATTENTION_DEFAULT,
        device=job.ranks.device,
        clip=first,
        clip_sha256=content_of(first, clips[first].sha256),
        system=chosen[0].system,
        rows=[(row.query, row.response) for row in chosen],
        groups="groups" in wanted,
        features="features" in wanted,
    )


def proof_file(job: Job, request: ProofRequest) -> Path:
    """Returns where proofs are kept; fingerprints the weights."""
    key: dict[str, Any] = {
        **job.contract.to_dict(),
        **{name: value for name, value in asdict(request).items() if name not in ("folder", "preprocessing", "clip")},
        "packages": {name: version(name) for name in PACKAGES},
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return job.recipe.output.root.absolute() / PROOFS_FOLDER / f"{digest[:32]}.json"


def find_proofs(
    job: Job,
    wanted: Collection[Wanted],
    *,
    rows: Sequence[Row],
    shapes: Sequence[RowShape],
    clips: Mapping[ClipRef, ClipInfo],
) -> Proofs | None:
    """Finds proofs that an earlier training has kept, where the weights are there to know the model by.

    Args:
        job: The job.
        wanted: What is to be proven.
        rows: The rows that train, as for `request_proofs`.
        shapes: Their lengths.
        clips: Facts per clip.
    """
    if job.model.folder.is_absent or not any(job.model.path.glob("*.safetensors")):
        return None
    request = request_proofs(job, wanted, rows=rows, shapes=shapes, clips=clips)
    return read_proofs(proof_file(job, request))


PROOFS = TypeAdapter(Proofs)
"""Writes and reads proofs."""


def read_proofs(path: Path) -> Proofs | None:
    """Reads kept proofs; None where there are none that can be read, so that they are made again."""
    try:
        return PROOFS.validate_json(path.read_bytes(), strict=True)
    except (OSError, ValidationError):
        return None


def keep_proofs(path: Path, proofs: Proofs) -> None:
    """Keeps proofs for the next training of the same model on the same clip."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, PROOFS.dump_json(proofs, indent=2) + b"\n")
