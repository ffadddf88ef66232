"""Chooses which frames of a clip the model sees.

    timestamps_s float32 (N,), avg_fps  --choose_frames-->  frame indices (T,)

`chat` and `base` are the two rules that the first family was published with; `uniform` is ours, for clips that they would
cut; `fps` is the published rule of families that take frames in pairs, `segments` of one that takes the middle of equal parts.
Refuses only rules that cannot be carried out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from cvft.errors import DataError, Problem, quote

BASE_WINDOW_S = 60
"""The `base` rule looks at this many seconds. Source: the published video demo, frame loading of the base model."""

STRATEGIES = ("chat", "base", "uniform", "fps", "segments")

Float32s = npt.NDArray[np.float32]
Float64s = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Sampling:
    """A rule for choosing frames.

    Args:
        strategy: `chat` takes the frame nearest to each whole second and stops after `max_frames`, so that a longer
            clip loses its end. `base` spreads `max_frames` over the first 60 s and repeats frames of short clips.
            `uniform` spreads at most `max_frames` over the whole clip and never repeats one. `fps` spreads `fps` frames per
            second over the whole clip: an even number, at least `min_frames` and at most `max_frames` where the clip has
            so many. `segments` cuts the whole clip into `max_frames` equal parts and takes the frame in the middle of each.
        max_frames: Most frames to choose. Each costs tokens in the model.
        fps: Frames per second of the rule `fps`; None with any other.
        min_frames: Fewest frames of the rule `fps`; None with any other.
    """

    strategy: Literal["chat", "base", "uniform", "fps", "segments"] = "chat"
    max_frames: int = 24
    fps: float | None = None
    min_frames: int | None = None

    def __post_init__(self) -> None:
        problems = []
        if self.strategy not in STRATEGIES:
            problems.append(Problem("strategy", quote(self.strategy), f"one of {', '.join(map(quote, STRATEGIES))}"))
        if self.max_frames < 1:
            problems.append(Problem("max_frames", quote(self.max_frames), "at least 1"))
        if self.strategy == "fps":
            if self.fps is None or not 0 < self.fps < math.inf:
                problems.append(Problem("fps", quote(self.fps), "a number above 0"))
            if self.min_frames is None or not 1 <= self.min_frames <= self.max_frames:
                problems.append(Problem("min_frames", quote(self.min_frames), f"1 to max_frames ({self.max_frames})"))
        elif self.fps is not None or self.min_frames is not None:
            need = f"no such setting with {quote(self.strategy)}"
            problems.append(Problem("fps, min_frames", f"{quote(self.fps)}, {quote(self.min_frames)}", need))
        if problems:
            raise DataError("the sampling rule", problems)


@dataclass(frozen=True)
class Coverage:
    """What a sampling rule leaves out of a clip, or shows twice.

    Args:
        shown_s: The rule looks at seconds 0 to `shown_s` of the clip.
        cut_s: Seconds at the end of the clip that it never looks at; 0 when it looks at all.
        num_repeated: Chosen frames that had been chosen before.
        notes: One sentence per thing worth reporting; empty when there is nothing.
    """

    shown_s: float
    cut_s: float
    num_repeated: int
    notes: tuple[str, ...]


def choose_frames(timestamps_s: Float32s, *, avg_fps: float, sampling: Sampling) -> list[int]:
    """Returns the indices of the frames that a rule chooses.

    Args:
        timestamps_s: Start of each frame in seconds, in display order, shape `(N,)` with N >= 1. The published rules
            were used with float32 times; float64 chooses other frames at half-frame ties (second 1 at 12.5 fps).
        avg_fps: Frames per second; only the rules `base` and `fps` use it.
        sampling: The rule.

    Returns:
        At least one and at most `max_frames` indices into `timestamps_s`, never decreasing for a clip whose times
        increase. Some stand there twice where the published rule repeats frames.

    Source: the published video demo (frame loading of the chat and of the base model); for `fps`, `smart_nframes` of the makers'
    package; for `segments`, the video processor in transformers 5.19 of the family that has it, which refuses clips of fewer
    frames than segments: all are shown here. Their families name them.
    """
    timestamps_s = np.asarray(timestamps_s, dtype=np.float32)
    num_total = len(timestamps_s)
    assert num_total > 0, "a clip without frames has nothing to choose from"
    if sampling.strategy == "chat":
        # Python's round: a half goes to the even second, which is what the published code does
        num_seconds = round(float(timestamps_s.max())) + 1
        seconds = range(min(num_seconds, sampling.max_frames))
        return [int(np.abs(timestamps_s - np.float32(second)).argmin()) for second in seconds]
    if sampling.strategy == "base":
        num_window = _count_base_window(num_total, avg_fps)
        return [int(index) for index in np.linspace(0, num_window - 1, sampling.max_frames).astype(int)]
    if sampling.strategy == "fps":
        return spread_evenly(num_total, _count_by_rate(num_total, avg_fps, sampling))
    num_chosen = min(num_total, sampling.max_frames)
    if sampling.strategy == "segments":
        length = num_total / num_chosen
        # in fp32, as torch spaces them: where a middle falls between two frames, double precision chooses others
        return [int(place) for place in (np.arange(num_chosen) * length + length / 2).astype(np.float32)]
    return [int(index) for index in np.linspace(0, num_total - 1, num_chosen).astype(int)]


def coverage(
    frame_indices: Sequence[int], *, num_frames_total: int, avg_fps: float, duration_s: float, sampling: Sampling
) -> Coverage:
    """Says what of a clip the model does not get to see, and what it sees twice.

    Args:
        frame_indices: The chosen frames.
        num_frames_total: Frames of the clip.
        avg_fps: Its frames per second.
        duration_s: Its length in seconds.
        sampling: The rule that chose them.

    Returns:
        The cut and repeated parts, with sentences for a report.
    """
    shown_s = shown_seconds(
        num_frames_total=num_frames_total, avg_fps=avg_fps, duration_s=duration_s, sampling=sampling
    )
    notes = []
    rule = f"{quote(sampling.strategy)} sampling"
    if shown_s < duration_s:
        notes.append(cut_note(duration_s=duration_s, shown_s=shown_s, sampling=sampling))
    num_repeated = len(frame_indices) - len(set(frame_indices))
    if num_repeated:
        num_shown = len(frame_indices)
        notes.append(f"clip has {num_frames_total} frames, {rule} repeats {num_repeated} of the {num_shown} it shows")
    if sampling.strategy == "fps" and is_thinned(len(frame_indices), duration_s=duration_s, sampling=sampling):
        notes.append(thinned_note(len(frame_indices), duration_s=duration_s, sampling=sampling))
    return Coverage(shown_s=shown_s, cut_s=duration_s - shown_s, num_repeated=num_repeated, notes=tuple(notes))


def shown_seconds(*, num_frames_total: int, avg_fps: float, duration_s: float, sampling: Sampling) -> float:
    """Returns how many seconds of a clip, from its start, a rule looks at.

    Args:
        num_frames_total: Frames of the clip.
        avg_fps: Its frames per second.
        duration_s: Its length in seconds.
        sampling: The rule.

    Returns:
        Seconds; `duration_s` itself where nothing is cut off.
    """
    shown_s = duration_s
    if sampling.strategy == "chat":
        shown_s = min(duration_s, float(sampling.max_frames))
    elif sampling.strategy == "base":
        num_window = _count_base_window(num_frames_total, avg_fps)
        shown_s = duration_s if num_window == num_frames_total else min(duration_s, num_window / avg_fps)
    # less than half a frame is rounding, not a cut
    return duration_s if duration_s - shown_s < 0.5 / avg_fps else shown_s


def is_thinned(num_frames: int, *, duration_s: float, sampling: Sampling) -> bool:
    """Tells whether the rule `fps` shows fewer frames per second than it says, because there would be too many."""
    if sampling.strategy != "fps" or sampling.fps is None:
        return False
    return num_frames >= sampling.max_frames // 2 * 2 and duration_s * sampling.fps >= num_frames + 2


def thinned_note(num_frames: int, *, duration_s: float, sampling: Sampling) -> str:
    """Returns the sentence on a clip that is too long for its rate of frames."""
    rate = num_frames / duration_s
    return (
        f"clip is {duration_s:.1f} s: {num_frames} frames of it are {rate:.2g} per second, in place of {sampling.fps:g}"
    )


def cut_note(*, duration_s: float, shown_s: float, sampling: Sampling) -> str:
    """Returns the sentence on a clip whose end a rule does not show."""
    return f"clip is {duration_s:.1f} s, {quote(sampling.strategy)} sampling shows its first {shown_s:g} s"


def _count_by_rate(num_total: int, avg_fps: float, sampling: Sampling) -> int:
    """Frames that the `fps` rule takes: an even number, because its models take frames in pairs; one of a clip of one."""
    assert sampling.fps is not None, "checked with the rule"
    assert sampling.min_frames is not None, "checked with the rule"
    fewest, most = math.ceil(sampling.min_frames / 2) * 2, sampling.max_frames // 2 * 2
    wanted = min(max(num_total / avg_fps * sampling.fps, fewest), most, num_total)
    return max(1, math.floor(wanted / 2) * 2)


def spread_evenly(num_total: int, num_chosen: int) -> list[int]:
    """Returns indices from the first frame to the last in equal steps, each rounded to the nearest, a half to the even one.

    Args:
        num_total: Frames of the clip.
        num_chosen: Frames to choose, at least 1.

    Source: `torch.linspace(0, N - 1, n).round()` of the makers' package, in fp32: from both ends to the middle.
    """
    if num_chosen == 1:
        return [0]
    last = np.float32(num_total - 1)
    step = last / np.float32(num_chosen - 1)
    numbers = np.arange(num_chosen, dtype=np.float32)
    places = np.where(numbers < num_chosen // 2, step * numbers, last - step * (np.float32(num_chosen - 1) - numbers))
    return [int(place) for place in np.round(places)]


def _count_base_window(num_total: int, avg_fps: float) -> int:
    """Frames that the `base` rule looks at; at least one, where the published rule would count backwards."""
    return max(1, min(num_total, int(BASE_WINDOW_S * avg_fps)))
