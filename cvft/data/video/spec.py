"""What a row shows: a file, a stretch of one, ready frames, how many of them; or a picture. What tells a clip from others.

a file's `Path`, or `ClipSpec(path, ...)`  <->  text, for files that name clips
with the hash of its files' bytes  ->  `content_of`: what tells its frames from those of any other clip

Seconds of a stretch count from its first frame, like those of a file: whoever cut it out into a file of its own would be shown
the same frames at the same seconds.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cvft.errors import ValueProblem, quote
from cvft.files import hash_file

if TYPE_CHECKING:  # it loads numpy, and every command names clips
    from cvft.data.video.sample import Sampling


LATEST_S = 1e7
"""No clip is that long; decord gives such times, of either sign, where it could not find any."""


@dataclass(frozen=True)
class ClipSpec:
    """A clip that is not simply a file.

    Args:
        path: The file; of ready frames, the first of them.
        start_s: Only frames that start then or later are part of it, in seconds since the file's first; None for all.
        end_s: Only frames that start before then are; None for all.
        frames: Ready frames, one picture each; empty for a file.
        seconds: When each of them was taken, rising from 0.
        max_frames: Most frames that are shown, in place of the sampling rule's; None for as many as that says.
        fps: Frames per second, in place of the rule's; None for that.
        is_image: Whether it is one picture that a model takes as an image, and not as a clip of one frame.
    """

    path: Path
    start_s: float | None = None
    end_s: float | None = None
    frames: tuple[Path, ...] = ()
    seconds: tuple[float, ...] = ()
    max_frames: int | None = None
    fps: float | None = None
    is_image: bool = False


ClipRef = Path | ClipSpec
"""A clip as rows name it. A file that is shown whole is its path, and never a `ClipSpec` that says nothing more."""


def make_ref(spec: ClipSpec) -> ClipRef:
    """Returns a clip as everybody names it: what asks for nothing but the file is the file."""
    return spec if spec != ClipSpec(spec.path) else spec.path


def make_image(path: Path) -> ClipSpec:
    """Returns a picture that is no frame of a clip: what stands in a row in place of one."""
    return ClipSpec(path, frames=(path,), seconds=(0.0,), is_image=True)


def is_image(clip: ClipRef | None) -> bool:
    """Tells whether a row shows a picture in place of a clip."""
    return isinstance(clip, ClipSpec) and clip.is_image


def file_of(clip: ClipRef) -> Path:
    """Returns the file that a clip is in; of ready frames, the first."""
    return clip.path if isinstance(clip, ClipSpec) else clip


def files_of(clip: ClipRef) -> tuple[Path, ...]:
    """Returns all files that a clip is in."""
    return (clip.frames or (clip.path,)) if isinstance(clip, ClipSpec) else (clip,)


def in_files(clip: ClipRef, files: Sequence[Path]) -> ClipRef:
    """Returns the same clip in files at other places."""
    if not isinstance(clip, ClipSpec):
        return files[0]
    return replace(clip, path=files[0], frames=tuple(files) if clip.frames else ())


def whole_of(clip: ClipRef) -> ClipRef:
    """Returns all that a clip's files hold: the clip without its limits."""
    if not isinstance(clip, ClipSpec):
        return clip
    return make_ref(replace(clip, start_s=None, end_s=None, max_frames=None, fps=None))


def is_stretch(clip: ClipRef) -> bool:
    """Tells whether a clip is a part of what its files hold."""
    return isinstance(clip, ClipSpec) and (clip.start_s is not None or clip.end_s is not None)


def with_budget(clip: ClipRef, *, max_frames: int | None, fps: float | None) -> ClipRef:
    """Returns the same clip with a budget of frames, where it has none of its own; a picture needs none."""
    if is_image(clip):
        return clip
    spec = clip if isinstance(clip, ClipSpec) else ClipSpec(clip)
    return make_ref(replace(spec, max_frames=spec.max_frames or max_frames, fps=spec.fps or fps))


def sampling_for(clip: ClipRef, sampling: Sampling) -> Sampling:
    """Returns the rule by which frames of a clip are chosen: that of all clips, with the clip's own budget.

    Args:
        clip: The clip.
        sampling: The rule of all clips, whose `max_frames` no clip may exceed: memory and lengths are planned for it.

    Raises:
        ValueProblem: when the rule has no place for the budget.
    """
    if not isinstance(clip, ClipSpec) or (clip.max_frames is None and clip.fps is None):
        return sampling
    name = quote(sampling.strategy)
    if clip.fps is not None and sampling.strategy != "fps":
        raise ValueProblem(
            f"`fps` {clip.fps:g} of a row", f"no `fps`: {name} sampling has no rate", "video.sampling=fps has"
        )
    most = sampling.max_frames if clip.max_frames is None else clip.max_frames
    if most != sampling.max_frames and sampling.strategy == "base":
        got, need = (
            f"`max_frames` {most} of a row",
            f"no `max_frames`: {name} sampling shows {sampling.max_frames} of every clip",
        )
        raise ValueProblem(got, need)
    if most > sampling.max_frames:
        got, need = f"`max_frames` {most} of a row", f"at most {sampling.max_frames}, as of all clips"
        raise ValueProblem(got, need, "raise video.max_frames, and give the other rows or files a lower one")
    fewest = None if sampling.min_frames is None else min(sampling.min_frames, most)
    return replace(sampling, max_frames=most, fps=clip.fps or sampling.fps, min_frames=fewest)


def has_own_times(clip: ClipRef) -> bool:
    """Tells whether a clip's frames come with the seconds that a row states."""
    return isinstance(clip, ClipSpec) and bool(clip.seconds)


def content_of(clip: ClipRef, sha256: str) -> str:
    """Tells what is shown of a clip from what is shown of any other, wherever its files lie.

    Args:
        clip: The clip.
        sha256: `hash_files` of its files.

    Returns:
        The hash itself for a whole file; else another of the same form.
    """
    if not isinstance(clip, ClipSpec):
        return sha256
    return hashlib.sha256(f"{sha256} {json.dumps(_settings(clip), sort_keys=True)}".encode()).hexdigest()


def hash_files(files: Sequence[Path]) -> str:
    """Returns the sha256 of a file's bytes; of several files, one over theirs.

    Raises:
        OSError: when one cannot be read.
    """
    if len(files) == 1:
        return hash_file(files[0])
    return hashlib.sha256("".join(map(hash_file, files)).encode()).hexdigest()


def stat_files(files: Sequence[Path]) -> tuple[int, int, int]:
    """Returns the bytes of files, and when the last of them was written and changed, in nanoseconds.

    Raises:
        OSError: when one is not there.
    """
    found = [os.stat(path) for path in files]
    times = max(each.st_mtime_ns for each in found), max(each.st_ctime_ns for each in found)
    return sum(each.st_size for each in found), *times


def name_of(clip: ClipRef) -> str:
    """Returns a short name for people.

    Example:
        >>> name_of(Path("clips/a.mp4")), name_of(ClipSpec(Path("clips/a.mp4"), 12.5, 20))
        ('a.mp4', 'a.mp4 (12.5 to 20 s)')
        >>> name_of(ClipSpec(Path("a.mp4"), end_s=3)), name_of(ClipSpec(Path("a.mp4"), start_s=3))
        ('a.mp4 (0 to 3 s)', 'a.mp4 (from 3 s)')
        >>> name_of(ClipSpec(Path("f/1.jpg"), frames=(Path("f/1.jpg"), Path("f/2.jpg")), seconds=(0, 1)))
        '1.jpg (2 frames)'
    """
    return describe(clip, file_of(clip).name)


def describe(clip: ClipRef, name: str) -> str:
    """Returns a clip's name for people, with its file under the name that is given."""
    if not isinstance(clip, ClipSpec):
        return name
    if clip.is_image:
        return name
    parts: list[str] = [f"{len(clip.frames)} frames"] if clip.frames else []
    if clip.end_s is not None:
        parts.append(f"{clip.start_s or 0:g} to {clip.end_s:g} s")
    elif clip.start_s is not None:
        parts.append(f"from {clip.start_s:g} s")
    parts += [] if clip.max_frames is None else [f"at most {clip.max_frames} frames"]
    parts += [] if clip.fps is None else [f"{clip.fps:g} per second"]
    return f"{name} ({', '.join(parts)})"


def sort_key(clip: ClipRef) -> tuple[Path, str]:
    """Returns what clips are sorted by: their files, and those of one file by what they show of it."""
    return file_of(clip), "" if isinstance(clip, Path) else to_text(clip)


def to_text(clip: ClipRef) -> str:
    """Writes a clip as one text, which `from_text` reads: the path, or JSON of all that a `ClipSpec` says."""
    if not isinstance(clip, ClipSpec):
        return str(clip)
    frames = {"frames": [str(path) for path in clip.frames]} if clip.frames else {}
    return json.dumps({"path": str(clip.path), **frames, **_settings(clip)}, ensure_ascii=False)


def from_text(text: str) -> ClipRef:
    """Reads what `to_text` wrote; a path that looks like JSON has to be absolute, as all paths of rows are."""
    if not text.startswith("{"):
        return Path(text)
    values = json.loads(text)
    path, frames = Path(values.pop("path")), tuple(map(Path, values.pop("frames", ())))
    return ClipSpec(path, frames=frames, seconds=tuple(values.pop("seconds", ())), **values)


def _settings(spec: ClipSpec) -> dict[str, Any]:
    """What a spec says beside its files."""
    names = ("start_s", "end_s", "max_frames", "fps")
    values: dict[str, Any] = {name: getattr(spec, name) for name in names}
    values |= {"seconds": list(spec.seconds) or None, "is_image": spec.is_image or None}
    return {name: value for name, value in values.items() if value is not None}
