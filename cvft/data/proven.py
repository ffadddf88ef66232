"""Clips that a run has proved usable, so that its next start decodes only what is new or has changed.

clips + how they looked before they were decoded -> RUN/data/proven_clips.json -> facts of those that look the same
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pydantic import TypeAdapter, ValidationError

from cvft.data.video.process import ClipInfo


@dataclass(frozen=True)
class Looks:
    """What changes when a file is written, replaced or touched.

    Args:
        num_bytes: Its size.
        mtime_ns: When its content was written, in nanoseconds; programs may set it.
        ctime_ns: When the system last changed anything about it, in nanoseconds; programs may not.
    """

    num_bytes: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, path: Path) -> Self | None:
        """Looks at a file; None where there is none to look at."""
        try:
            found = path.stat()
        except OSError:
            return None
        return cls(found.st_size, found.st_mtime_ns, found.st_ctime_ns)


@dataclass(frozen=True)
class ProvenClips:
    """What a run has proved.

    Args:
        how: Everything but the clips that decides what is found: sampling, decoder and its limits, versions.
        looks: How each clip looked before it was decoded.
        facts: What was found.
    """

    how: str
    looks: Mapping[Path, Looks]
    facts: Mapping[Path, ClipInfo]

    @classmethod
    def read(cls, path: Path, *, how: str) -> Self:
        """Reads what a run has proved; nothing where there is no such file, or where clips were decoded otherwise."""
        try:
            proven = TypeAdapter(cls).validate_json(path.read_bytes())
        except (OSError, ValidationError):
            return cls(how, {}, {})
        return proven if proven.how == how else cls(how, {}, {})

    def still(self, looks: Mapping[Path, Looks]) -> dict[Path, ClipInfo]:
        """Returns the facts of clips that look as they did."""
        return {path: self.facts[path] for path in looks if self.looks.get(path) == looks[path] and path in self.facts}

    def to_json(self) -> str:
        """Returns the text that `read` takes."""
        return TypeAdapter(ProvenClips).dump_json(self).decode() + "\n"


def look_at(paths: Iterable[Path]) -> dict[Path, Looks]:
    """Looks at files; those that are not there are left out."""
    return {path: looks for path in paths if (looks := Looks.of(path)) is not None}
