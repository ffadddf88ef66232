"""Finds what is odd about the pictures of a clip, on the frames that the sampling rule shows and on no others.

frames uint8 (T, H, W, 3), seconds (T,)  --find_oddities-->  black, white, frozen and repeated pictures, as facts

Pictures are compared by the mean brightness of 16 x 16 cells: a codec changes single pixels of a picture that stands still, and
hardly a cell. A small thing that moves changes its cells by tens of levels.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cvft.data.video.reader import Frames
from cvft.data.video.sample import Float32s

NUM_CELLS = 16
"""Cells along each side of a picture."""

ALIKE_LEVELS = 5.0
"""Two pictures of whose cells none differs by this many of 256 levels show the same. Measured: a stretch that stands still, at
CRF 35 with a key frame every 12 frames (x264), differs by up to 4.5; neighbouring seconds of moving footage by 36 and more."""

MOVED_LEVELS = 2.0
"""A cell that changes by more has moved."""

MOVING_SHARE = 0.25
"""A step that moves this share of the cells belongs to a clip that moves as a whole, as a camera's does. Measured: 0.32 and more
on real clips, at most 0.19 where things move in front of a scene that stands still (the 96 clips of the demo)."""

STILL_SHARE = 0.8
"""A clip that shows one picture for this share of its frames stands still, however it moves else. Measured: at most 0.75 on the
96 clips of the demo, whose scenes stand still between events."""

MIN_STILL = 3
"""Frames that look alike, one after the other, before a clip that moves counts as frozen: two may be chance, or a short halt."""

MIN_STILL_ALL = 4
"""The same where `STILL_SHARE` decides: of fewer frames nothing can be said."""

MIN_BLANK = 2
"""Black or white frames, one after the other, that are a stretch: one is a fade at the start or a flash."""

BLACK_LEVEL, WHITE_LEVEL = 8.0, 247.0
"""Every cell of a black picture is below, of a white one above. Measured: the darkest picture of the demo has a cell of 17."""

ODD_DISTANCE, ODD_SHARE = 0.5, 0.05
"""A clip has a variable frame rate where over this share of its frames follow the one before by a distance that differs from the
usual one by over half: a container's rounding is far below, and a single lost frame is none."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Oddity:
    """One fact about a clip.

    Args:
        kind: `black`, `white`, `frozen`, `repeated_picture`, `single_frame`, `variable_frame_rate` or `turned`.
        got: What was found, with its place in the clip.
    """

    kind: str
    got: str


def find_oddities(frames: Frames, timestamps_s: Sequence[float]) -> tuple[Oddity, ...]:
    """Finds what is odd about the pictures that are shown of a clip.

    Args:
        frames: Frames that differ in their place in the clip, in their order, uint8 `(T, H, W, 3)`.
        timestamps_s: The second of each.
    """
    cells = np.stack([_measure(frame) for frame in frames])
    lows, highs = cells.min((1, 2)), cells.max((1, 2))
    blank: npt.NDArray[np.bool_] = (highs < BLACK_LEVEL) | (lows > WHITE_LEVEL)
    found = []
    for kind, is_blank in (("black", highs < BLACK_LEVEL), ("white", lows > WHITE_LEVEL)):
        if stretches := [run for run in _runs(is_blank) if run[1] - run[0] >= MIN_BLANK]:
            found.append(Oddity(kind, _tell(stretches, timestamps_s, what=f"{kind} pictures")))
    steps = np.abs(np.diff(cells, axis=0))
    alike = steps.max((1, 2)) < ALIKE_LEVELS
    moves = (steps > MOVED_LEVELS).mean((1, 2)) >= MOVING_SHARE
    # a clip that moves as a whole: something of it goes on for two steps, and nothing moves a little
    is_moving = bool((moves[1:] & moves[:-1]).any() and (alike | moves).all())
    still = [(start, stop) for start, stop in _find_still(cells) if not blank[start]]
    least = MIN_STILL if is_moving else max(MIN_STILL_ALL, STILL_SHARE * len(frames))
    if stretches := [run for run in still if run[1] - run[0] >= least]:
        found.append(Oddity("frozen", _tell(stretches, timestamps_s, what="pictures that look alike")))
    for start, stop in _find_repeats(cells, moves):
        got = f"the picture of second {timestamps_s[start]:.1f} again at second {timestamps_s[stop]:.1f}"
        found.append(Oddity("repeated_picture", f"{got}, with all moving between"))
        break
    return tuple(found)


def find_odd_times(timestamps_s: Float32s) -> tuple[Oddity, ...]:
    """Finds what is odd about the times of all frames of a clip.

    Args:
        timestamps_s: Start of each frame in seconds, in display order, shape `(N,)`.
    """
    if len(timestamps_s) == 1:
        return (Oddity("single_frame", "a single frame"),)
    distances_s = np.diff(timestamps_s.astype(np.float64))
    usual_s = float(np.median(distances_s))
    is_odd = np.abs(distances_s - usual_s) > ODD_DISTANCE * usual_s
    if len(distances_s) < MIN_STILL or is_odd.mean() <= ODD_SHARE:
        return ()
    low_s, high_s = distances_s.min(), distances_s.max()
    return (Oddity("variable_frame_rate", f"frames {1000 * low_s:.0f} to {1000 * high_s:.0f} ms apart"),)


def _measure(frame: Frames) -> Floats:
    """Returns the mean brightness (Rec. 601) of each cell, from 0 to 255."""
    height, width, _ = frame.shape
    rows, columns = (np.linspace(0, side, min(NUM_CELLS, side) + 1).astype(int) for side in (height, width))
    # summed as integers, side by side: a large frame is never copied as floats
    sums = np.add.reduceat(frame, rows[:-1], axis=0, dtype=np.uint32)
    sums = np.add.reduceat(sums, columns[:-1], axis=1, dtype=np.uint64)
    sizes = np.diff(rows)[:, None] * np.diff(columns)[None]
    return np.asarray(sums @ np.array([0.299, 0.587, 0.114]) / sizes, dtype=np.float64)


def _runs(flags: npt.NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Yields where flags are set, one after the other: first, and first that is not."""
    start = 0
    for is_set, group in itertools.groupby(flags.tolist()):
        stop = start + len(list(group))
        if is_set:
            yield start, stop
        start = stop


def _find_still(cells: Floats) -> Iterator[tuple[int, int]]:
    """Yields stretches whose pictures all look like their first one: what drifts slowly does not stand still."""
    start = 0
    for stop in range(1, len(cells) + 1):
        if stop == len(cells) or np.abs(cells[stop] - cells[start]).max() >= ALIKE_LEVELS:
            yield start, stop
            start = stop


def _find_repeats(cells: Floats, moves: npt.NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Yields pairs of frames that look alike although every step between them moves the whole picture."""
    for start, stop in _runs(moves):
        for first, second in itertools.combinations(range(start, stop + 1), 2):
            if second > first + 1 and np.abs(cells[first] - cells[second]).max() < ALIKE_LEVELS:
                yield first, second


def _tell(stretches: Sequence[tuple[int, int]], timestamps_s: Sequence[float], *, what: str) -> str:
    start, stop = max(stretches, key=lambda run: run[1] - run[0])
    others = f", and {len(stretches) - 1} more such" if len(stretches) > 1 else ""
    place = f"seconds {timestamps_s[start]:.1f} to {timestamps_s[stop - 1]:.1f}"
    return f"{stop - start} of {len(timestamps_s)} shown frames in a row: {what} ({place}){others}"
