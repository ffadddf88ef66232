"""Finds clips that are one clip although their bytes differ: encoded anew, resized, at another rate, or a part of the other.

looks of both sides -> candidates by single pictures -> pairs whose pictures agree one after the other, at one offset in time

Measured on the 96 clips of the demo and two of real footage (a moving camera and a face): of 490 copies (CRF 36; 0.6 times the
size; a third cut off at the start; the end cut off at 0.8 times the size; 4 frames per second) every one is within 8 levels, and
of all 4,753 pairs of different clips none within 13. Clips of one camera that stands still may be as near as copies are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cvft.data.video.looks import ClipLooks
from cvft.data.video.spec import ClipRef

ALIKE_LEVELS = 11.0
"""Two clips are one where most of their pictures differ by less, as the root of the mean square over cells, of 256 levels."""

ALIKE_SHARE = 0.7
"""The share of pictures that have to: where all moves, some fall between two pictures of the other clip."""

NUM_PROBES = 8
"""Pictures of a clip, evenly spread, that are looked for in another one before both are laid side by side."""

MIN_PROBES = 3
"""How many of them have to be found: a clip may be a part of the other that is shorter than half of it."""

MIN_OVERLAP = 0.75
"""Share of the shorter clip that has to lie within the longer one."""

MIN_PICTURES = 3
"""Of fewer nothing is said."""

Floats = npt.NDArray[np.float32]


def find_similar(
    first: Mapping[ClipRef, ClipLooks], second: Mapping[ClipRef, ClipLooks]
) -> Iterator[tuple[ClipRef, ClipRef, float]]:
    """Finds clips of one side that look like clips of the other.

    Args:
        first: What the clips of one side look like.
        second: The same of the other side.

    Yields:
        A clip of each side, and how many seconds the shorter begins after the longer.
    """
    if not first or not second:
        return
    names = list(first)
    probes = np.concatenate([_probes(first[name]) for name in names])
    for other, looks in second.items():
        cells = looks.cells.astype(np.float32)
        found = _distances(probes, cells).min(1).reshape(len(names), NUM_PROBES)
        back = _probes(looks)
        is_near = np.sort(found, axis=1)[:, MIN_PROBES - 1] < ALIKE_LEVELS
        for number, name in enumerate(names):
            if not is_near[number]:  # or it is the longer one, and few of its pictures are in the other
                distances = _distances(back, first[name].cells.astype(np.float32)).min(1)
                if np.sort(distances)[MIN_PROBES - 1] >= ALIKE_LEVELS:
                    continue
            offset_s = align(first[name], looks)
            if offset_s is not None:
                yield name, other, offset_s


def group_alike(looks: Mapping[str, ClipLooks]) -> dict[str, str]:
    """Names the group of each clip that looks like another.

    Args:
        looks: What clips look like, by their names.

    Returns:
        Name of a clip -> name of its group, which is that of one of its clips; clips that are alone are left out.
    """
    group: dict[str, str] = {name: name for name in looks}
    clips: dict[ClipRef, ClipLooks] = {Path(name): of_clip for name, of_clip in looks.items()}
    for one, other, _ in find_similar(clips, clips):
        first, second = sorted((group[str(one)], group[str(other)]))
        if first != second:
            group = {name: first if of_clip == second else of_clip for name, of_clip in group.items()}
    shared = Counter(group.values())
    return {name: of_clip for name, of_clip in group.items() if shared[of_clip] > 1}


def align(one: ClipLooks, other: ClipLooks) -> float | None:
    """Lays the shorter of two clips along the longer one.

    Args:
        one: A clip.
        other: Another.

    Returns:
        The seconds after which the shorter begins in the longer, where most of its pictures are those of the longer; else None.
    """
    short, long = (one, other) if _length(one) <= _length(other) else (other, one)
    seconds, places = short.timestamps_s - short.timestamps_s[0], long.timestamps_s - long.timestamps_s[0]
    if min(len(seconds), len(places)) < MIN_PICTURES:
        return None
    distances = _distances(short.cells.astype(np.float32), long.cells.astype(np.float32))
    half_step_s = float(np.median(np.diff(places))) / 2
    best: tuple[float, float] | None = None
    for offset_s in places:
        inside = np.flatnonzero(seconds + offset_s <= places[-1] + half_step_s)
        if len(inside) < max(MIN_PICTURES, MIN_OVERLAP * len(seconds)):
            break
        nearest = np.abs(places[None] - (seconds[inside] + offset_s)[:, None]).argmin(1)
        # the picture before and the one after count too: both clips show what moves at other moments
        around = np.clip(nearest[None] + np.array([-1, 0, 1])[:, None], 0, len(places) - 1)
        value = float(np.quantile(distances[inside[None], around].min(0), ALIKE_SHARE))
        if best is None or value < best[0]:
            best = value, float(offset_s)
    return best[1] if best is not None and best[0] < ALIKE_LEVELS else None


def _length(looks: ClipLooks) -> float:
    return float(looks.timestamps_s[-1] - looks.timestamps_s[0])


def _probes(looks: ClipLooks) -> Floats:
    places: Sequence[int] = np.linspace(0, len(looks.cells) - 1, NUM_PROBES).round().astype(int).tolist()
    return looks.cells[places].astype(np.float32)


def _distances(one: Floats, other: Floats) -> Floats:
    """Root of the mean square over cells, for each picture of one with each of the other."""
    squares = (one**2).sum(1)[:, None] + (other**2).sum(1)[None] - 2 * one @ other.T
    return np.asarray(np.sqrt(np.maximum(squares, 0) / one.shape[1]), dtype=np.float32)
