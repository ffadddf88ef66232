"""How sure a number over val rows is: intervals and comparisons that draw *clips* anew, never rows.

Rows of one clip are right or wrong together, so the rows of 30 clips say less than as many rows of as many clips would.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

MIN_CLIPS = 10
"""Fewest clips for which an interval is stated; below it any would be a guess."""

NUM_DRAWS = 10_000
"""Times that clips are drawn anew, or signs are flipped."""

_SEED = 0
_MAX_DRAWN = 4_000_000
"""Most numbers drawn at a time, to bound memory (32 MB)."""


@dataclass(frozen=True)
class Difference:
    """Two models on the same rows.

    Args:
        mean: Mean of the second less mean of the first.
        low: Lower end of its 95 % interval.
        high: Upper end.
        p: How often a difference at least as large appears where none is: by flipping the sign of each clip's difference.
        smallest_visible: Smallest true difference that rows like these would show in four of five evaluations.
        num_clips: Clips that the rows are about; a row without a clip counts as one.
    """

    mean: float
    low: float
    high: float
    p: float
    smallest_visible: float
    num_clips: int

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as JSON values."""
        return asdict(self)


def interval(
    values: Sequence[float], *, clips: Sequence[Hashable], num_draws: int = NUM_DRAWS
) -> tuple[float, float] | None:
    """Returns the 95 % interval of the mean over rows.

    The percentile bootstrap over clips, widened by sqrt(C / (C - 1)) and by Student's t with C - 1 degrees of freedom over the
    normal, for C clips: without it, intervals of few clips are too short.

    Args:
        values: One finite number per row.
        clips: The clip of each row; rows with equal ones are drawn together.
        num_draws: Times that clips are drawn.

    Returns:
        Its ends, or None for fewer than `MIN_CLIPS` clips.

    Source: Cameron, Gelbach and Miller, "Bootstrap-Based Improvements for Inference with Clustered Errors" (2008), for drawing
    clusters; Davison and Hinkley, "Bootstrap Methods and their Application" (1997), for few draws' variance.
    """
    import numpy as np
    from scipy import stats

    sums, counts = _per_clip(values, clips)
    num_clips = len(sums)
    if num_clips < MIN_CLIPS:
        return None
    rng = np.random.default_rng(_SEED)
    means = []
    for start in range(0, num_draws, step := max(1, _MAX_DRAWN // num_clips)):
        drawn = rng.integers(0, num_clips, (min(step, num_draws - start), num_clips))
        means.append(sums[drawn].sum(1) / counts[drawn].sum(1))
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    mean = sums.sum() / counts.sum()
    widening = np.sqrt(num_clips / (num_clips - 1)) * stats.t.ppf(0.975, num_clips - 1) / stats.norm.ppf(0.975)
    return float(mean + (low - mean) * widening), float(mean + (high - mean) * widening)


def share_interval(values: Sequence[float], *, clips: Sequence[Hashable]) -> tuple[float, float] | None:
    """Returns `interval` of numbers from 0 to 1, within 0 and 1.

    Where every row has 0, or every row 1, clips drawn anew cannot differ; then the far end is what as many clips, each wholly
    right or wrong, leave open: for all right, 0.025 ** (1 / C).

    Source: Clopper and Pearson, "The Use of Confidence or Fiducial Limits Illustrated in the Case of the Binomial" (1934).
    """
    ends = interval(values, clips=clips)
    if ends is None:
        return None
    reach = 0.025 ** (1 / len(set(clips)))
    if all(value == 1 for value in values):
        return reach, 1.0
    if all(value == 0 for value in values):
        return 0.0, 1.0 - reach
    return max(0.0, ends[0]), min(1.0, ends[1])


def compare(
    first: Sequence[float], second: Sequence[float], *, clips: Sequence[Hashable], num_draws: int = NUM_DRAWS
) -> Difference | None:
    """Compares two models row by row.

    Args:
        first: A number per row.
        second: The other model's number for the same rows.
        clips: The clip of each row.
        num_draws: Times that clips are drawn, and signs flipped.

    Returns:
        The difference, or None for fewer than `MIN_CLIPS` clips.
    """
    import numpy as np
    from scipy import stats

    differences = [after - before for before, after in zip(first, second, strict=True)]
    ends = interval(differences, clips=clips, num_draws=num_draws)
    if ends is None:
        return None
    sums, counts = _per_clip(differences, clips)
    num_clips, total = len(sums), float(counts.sum())
    rng = np.random.default_rng(_SEED)
    extreme, slack = 0, 1e-12 * max(1.0, float(np.abs(sums).sum()))
    for start in range(0, num_draws, step := max(1, _MAX_DRAWN // num_clips)):
        signs = rng.choice((-1.0, 1.0), (min(step, num_draws - start), num_clips))
        extreme += int((np.abs(signs @ sums) >= abs(sums.sum()) - slack).sum())
    mean = float(sums.sum() / total)
    residuals = sums - mean * counts
    error = float(np.sqrt(num_clips / (num_clips - 1) * (residuals**2).sum()) / total)
    factor = stats.t.ppf(0.975, num_clips - 1) + stats.t.ppf(0.8, num_clips - 1)
    # one is added above and below: the signs as they are count as a draw
    return Difference(mean, *ends, (extreme + 1) / (num_draws + 1), float(factor * error), num_clips)


def _per_clip(values: Sequence[float], clips: Sequence[Hashable]) -> tuple[Any, Any]:
    """Sum and number of the rows of each clip, as two arrays."""
    import numpy as np

    numbers: dict[Hashable, int] = {}
    index = np.array([numbers.setdefault(clip, len(numbers)) for clip in clips], dtype=np.int64)
    sums = np.bincount(index, weights=np.asarray(values, dtype=np.float64), minlength=len(numbers))
    return sums, np.bincount(index, minlength=len(numbers)).astype(np.float64)
