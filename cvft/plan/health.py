"""What was odd about the data of a run when its training began: counts by kind, each with its first examples, for its report.

job -> `cvft.data.doctor`, without looking at pictures that were not looked at before -> RUN/data/health.json
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import ConfigDict, TypeAdapter

from cvft.data.doctor.check import CheckUp
from cvft.data.doctor.findings import KINDS
from cvft.errors import RunError
from cvft.files import write_whole
from cvft.json_files import read_as
from cvft.plan.check import check_job
from cvft.plan.job import Job
from cvft.runs import RunFolder

NUM_EXAMPLES = 3


@dataclass(frozen=True)
class Example:
    """One finding: where, what was found, what would be expected, what to do."""

    where: str
    got: str
    need: str
    hint: str


@dataclass(frozen=True)
class FoundKind:
    """The findings of one kind.

    Args:
        id: A key of `cvft.data.doctor.findings.KINDS`.
        severity: `error`, `warning` or `note`.
        means: What it means for whoever trains on it.
        hint: What to do; may be empty.
        count: How many there are.
        examples: The first ones.
    """

    id: str
    severity: str
    means: str
    hint: str
    count: int
    examples: Sequence[Example]


@dataclass(frozen=True)
class Health:
    """What was found in the data of a run.

    Args:
        num_rows: Rows that can be read.
        num_clips: Their clips.
        num_not_compared: Clips that were not compared by what they look like.
        kinds: What was found, the gravest first.
    """

    num_rows: int
    num_clips: int
    num_not_compared: int
    kinds: Sequence[FoundKind]
    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")


_HEALTH = TypeAdapter(Health)


def write_health(job: Job) -> None:
    """Checks the data of a job as its training begins; clips that were decoded are not decoded again."""
    text = _HEALTH.dump_json(sum_up(check_job(job, looks=False)), indent=2).decode()
    write_whole(job.run.health_file, text + "\n")


def sum_up(checked: CheckUp) -> Health:
    """Counts what a check found, by kind."""
    kinds = []
    for name, kind in KINDS.items():
        found = [finding.to_dict() for finding in checked.findings if finding.kind == name]
        if found:
            examples = [Example(**{key: each[key] for key in Example.__dataclass_fields__}) for each in found]
            kinds.append(FoundKind(name, kind.severity, kind.means, kind.hint, len(found), examples[:NUM_EXAMPLES]))
    return Health(len(checked.rows), checked.num_clips, checked.num_not_compared, kinds)


def read_health(folder: RunFolder) -> dict[str, Any] | None:
    """Reads what was found in the data of a run; None in a run of a version that did not look.

    Returns:
        The fields of `Health`, as plain values.

    Raises:
        RunError: when the file is not what a training wrote.
    """
    path = folder.health_file
    if not path.is_file():
        return None
    need, hint = "what the training wrote", f"move {path} away: the report does without it"
    return asdict(read_as(path, _HEALTH, error=RunError, subject=f"run folder {folder.path}", need=need, hint=hint))
