"""The mark in every checkpoint: what it is, and the hash of each of its files, so that a damaged one is never continued."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from cvft.files import hash_file

MARK_FILE = "cvft_checkpoint.json"
"""In every checkpoint: what `CheckpointMark` holds, a hash per file, and one over all of that."""


@dataclass(frozen=True)
class CheckpointMark:
    """What a checkpoint says about itself.

    Args:
        step: Optimizer steps done.
        strategy: How the work was spread over ranks; DeepSpeed's optimizer states are cut up accordingly.
        num_ranks: Number of ranks that wrote it.
        eval_loss: Val loss at this step, when it was measured there.
        metrics: What else was measured there.
        is_final: Whether the training ended here before the last step that was planned.
    """

    step: int
    strategy: str
    num_ranks: int
    eval_loss: float | None
    metrics: Mapping[str, float] = field(default_factory=dict)
    is_final: bool = False

    def value_of(self, metric: str) -> float | None:
        """Returns what was measured of a metric here, or None."""
        return self.eval_loss if metric == "eval_loss" else self.metrics.get(metric)


@dataclass(frozen=True)
class _Stored:
    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    mark: CheckpointMark
    files: Mapping[str, str]
    sha256: str


_STORED = TypeAdapter(_Stored)


class BrokenCheckpointError(Exception):
    """A checkpoint is not what was written; the message says why, and fits behind `because`."""


def write_mark(checkpoint: Path, mark: CheckpointMark) -> None:
    """Marks a checkpoint whose files have all been written.

    Args:
        checkpoint: Its folder.
        mark: What it says about itself.
    """
    paths = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != MARK_FILE)
    files = {path.relative_to(checkpoint).as_posix(): hash_file(path) for path in paths}
    stored = {"mark": _stated(mark), "files": files, "sha256": _digest(mark, files)}
    (checkpoint / MARK_FILE).write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")


def read_mark(checkpoint: Path) -> CheckpointMark:
    """Reads what a checkpoint says about itself; its other files are not looked at.

    Raises:
        BrokenCheckpointError: when there is no mark, or it is not what was written, or it is that of another step.
    """
    return _read(checkpoint).mark


def check_files(checkpoint: Path) -> None:
    """Checks that every file of a checkpoint is there and has the bytes that were written.

    Raises:
        BrokenCheckpointError: when one is not; the first of them is named.
    """
    for name, sha256 in _read(checkpoint).files.items():
        path = checkpoint / name
        try:
            if hash_file(path) != sha256:
                raise BrokenCheckpointError(f"{name} is not as it was written")
        except FileNotFoundError:
            raise BrokenCheckpointError(f"{name} is missing") from None
        except OSError as error:
            raise BrokenCheckpointError(f"{name} cannot be read ({error.strerror})") from error


def _read(checkpoint: Path) -> _Stored:
    try:
        stored = _STORED.validate_json((checkpoint / MARK_FILE).read_bytes())
    except FileNotFoundError:
        raise BrokenCheckpointError(f"{MARK_FILE} is missing") from None
    except OSError as error:
        raise BrokenCheckpointError(f"{MARK_FILE} cannot be read ({error.strerror})") from error
    except ValidationError as error:
        raise BrokenCheckpointError(f"{MARK_FILE} is not what was written") from error
    if stored.sha256 != _digest(stored.mark, stored.files):
        raise BrokenCheckpointError(f"{MARK_FILE} is not as it was written")
    if checkpoint.name != f"checkpoint-{stored.mark.step}":
        raise BrokenCheckpointError(f"{MARK_FILE} is that of step {stored.mark.step}")
    return stored


def _stated(mark: CheckpointMark) -> dict[str, Any]:
    """What a mark says; what it says of nothing is left out, as it was before marks could say it."""
    values = asdict(mark)
    return {key: value for key, value in values.items() if key not in ("metrics", "is_final") or value}


def _digest(mark: CheckpointMark, files: Mapping[str, str]) -> str:
    text = json.dumps([_stated(mark), dict(files)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
