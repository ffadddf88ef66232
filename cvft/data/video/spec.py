"""What a row means by its clip: a whole file, or a stretch of one. The one value by which a clip is told from others everywhere.

a file's `Path`, or `ClipSpec(path, start_s, end_s)`  <->  text, for files that name clips
with the hash of the file's bytes  ->  `content_of`: what tells its frames from those of any other clip

Seconds of a stretch count from its first frame, like those of a file: whoever cut it out into a file of its own would be shown
the same frames at the same seconds.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class ClipSpec:
    """A part of a file as a clip of its own: the frames that start at `start_s` or later, and before `end_s`.

    Args:
        path: The file.
        start_s: Seconds since the file's first frame; None from its start on.
        end_s: Seconds since the file's first frame; None up to its end.
    """

    path: Path
    start_s: float | None = None
    end_s: float | None = None


ClipRef = Path | ClipSpec
"""A clip as rows name it. A file that is shown whole is its path, and never a `ClipSpec` that says nothing more."""


def make_ref(spec: ClipSpec) -> ClipRef:
    """Returns a clip as everybody names it: what asks for nothing but the file is the file."""
    return spec if _settings(spec) else spec.path


def file_of(clip: ClipRef) -> Path:
    """Returns the file that a clip is in."""
    return clip.path if isinstance(clip, ClipSpec) else clip


def at_place(clip: ClipRef, path: Path) -> ClipRef:
    """Returns the same clip of a file at another place."""
    return replace(clip, path=path) if isinstance(clip, ClipSpec) else path


def content_of(clip: ClipRef, sha256: str) -> str:
    """Tells what is shown of a clip from what is shown of any other, wherever its file lies.

    Args:
        clip: The clip.
        sha256: Hash of its file's bytes.

    Returns:
        The hash itself for a whole file; else another of the same form.
    """
    if not isinstance(clip, ClipSpec):
        return sha256
    return hashlib.sha256(f"{sha256} {json.dumps(_settings(clip), sort_keys=True)}".encode()).hexdigest()


def name_of(clip: ClipRef) -> str:
    """Returns a short name for people.

    Example:
        >>> name_of(Path("clips/a.mp4")), name_of(ClipSpec(Path("clips/a.mp4"), 12.5, 20))
        ('a.mp4', 'a.mp4 (12.5 to 20 s)')
        >>> name_of(ClipSpec(Path("a.mp4"), end_s=3)), name_of(ClipSpec(Path("a.mp4"), start_s=3))
        ('a.mp4 (0 to 3 s)', 'a.mp4 (from 3 s)')
    """
    return describe(clip, file_of(clip).name)


def describe(clip: ClipRef, name: str) -> str:
    """Returns a clip's name for people, with its file under the name that is given."""
    if not isinstance(clip, ClipSpec):
        return name
    until = "" if clip.end_s is None else f"{clip.start_s or 0:g} to {clip.end_s:g} s"
    return f"{name} ({until or f'from {clip.start_s:g} s'})"


def sort_key(clip: ClipRef) -> tuple[Path, str]:
    """Returns what clips are sorted by: their files, and those of one file by what they show of it."""
    return file_of(clip), "" if isinstance(clip, Path) else json.dumps(_settings(clip), sort_keys=True)


def to_text(clip: ClipRef) -> str:
    """Writes a clip as one text, which `from_text` reads: the path, or JSON of all that a `ClipSpec` says."""
    if not isinstance(clip, ClipSpec):
        return str(clip)
    return json.dumps({"path": str(clip.path), **_settings(clip)}, ensure_ascii=False)


def from_text(text: str) -> ClipRef:
    """Reads what `to_text` wrote; a path that looks like JSON has to be absolute, as all paths of rows are."""
    if not text.startswith("{"):
        return Path(text)
    values = json.loads(text)
    return make_ref(ClipSpec(Path(values.pop("path")), **values))


def _settings(spec: ClipSpec) -> dict[str, Any]:
    """What a spec says beside its file."""
    values = {each.name: getattr(spec, each.name) for each in fields(spec) if each.name != "path"}
    return {name: value for name, value in values.items() if value is not None}
