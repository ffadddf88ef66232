"""Intervals: they cover what they say, because clips and not rows are drawn; differences by hand."""

from __future__ import annotations

import numpy as np
import pytest

from cvft.evaluate.metrics import compute_metrics
from cvft.evaluate.uncertainty import MIN_CLIPS, compare, interval, share_interval


def test_an_interval_of_95_percent_covers_the_truth_in_95_percent() -> None:
    """30 clips of 10 rows whose results go together (intra-class correlation 0.3); drawing rows covers 71 %."""
    rng = np.random.default_rng(0)
    num_clips, num_rows, share, num_draws = 30, 10, 0.3, 500
    by_clip = by_row = 0
    for _ in range(num_draws):
        rows = rng.normal(0, share**0.5, (num_clips, 1)) + rng.normal(0, (1 - share) ** 0.5, (num_clips, num_rows))
        values = rows.ravel().tolist()
        for is_row, clips in ((False, np.repeat(np.arange(num_clips), num_rows)), (True, np.arange(rows.size))):
            ends = interval(values, clips=clips.tolist(), num_draws=1000)
            assert ends is not None
            covers = ends[0] <= 0 <= ends[1]
            by_row += covers and is_row
            by_clip += covers and not is_row
    assert 0.93 <= by_clip / num_draws <= 0.97
    assert by_row / num_draws < 0.93


def test_too_few_clips_have_no_interval() -> None:
    values = [float(index % 2) for index in range(90)]
    assert interval(values, clips=[index % (MIN_CLIPS - 1) for index in range(90)]) is None
    assert compare(values, values, clips=[0] * 90) is None
    assert interval(values, clips=[index % MIN_CLIPS for index in range(90)]) is not None


def test_a_share_stays_within_0_and_1_and_all_right_is_not_certain() -> None:
    clips = [index // 3 for index in range(90)]
    low, high = share_interval([1.0] * 90, clips=clips) or (None, None)
    assert (low, high) == (pytest.approx(0.025 ** (1 / 30)), 1.0)
    low, high = share_interval([0.0] * 90, clips=clips) or (None, None)
    assert (low, high) == (0.0, pytest.approx(1 - 0.025 ** (1 / 30)))
    ends = share_interval([1.0] * 89 + [0.0], clips=clips)
    assert ends is not None
    assert 0 <= ends[0] < 89 / 90 < ends[1] <= 1


def test_a_difference() -> None:
    rng = np.random.default_rng(1)
    clips = [index // 5 for index in range(200)]
    base = rng.integers(0, 2, 200).astype(float)
    better = np.where(rng.random(200) < 0.4, 1.0, base)
    found = compare(base.tolist(), better.tolist(), clips=clips)
    assert found is not None
    assert found.mean == pytest.approx((better - base).mean())
    assert found.low < found.mean < found.high
    assert found.p < 0.001
    assert 0 < found.smallest_visible < 0.2
    assert found.num_clips == 40
    same = compare(base.tolist(), base.tolist(), clips=clips)
    assert same is not None
    assert (same.mean, same.p) == (0, 1)


def test_p_is_even_where_nothing_differs() -> None:
    """Of comparisons of equal models, 5 % have p at 0.05 or less."""
    rng = np.random.default_rng(2)
    clips = [index // 4 for index in range(80)]
    hits = 0
    for _ in range(200):
        effect = np.repeat(rng.normal(0, 1, 20), 4) + rng.normal(0, 1, 80)
        found = compare([0.0] * 80, effect.tolist(), clips=clips, num_draws=500)
        assert found is not None
        hits += found.p <= 0.05
    assert 2 <= hits <= 20


def test_metrics_state_intervals_where_clips_are_given() -> None:
    said = ["yes"] * 60
    right = ["yes", "no"] * 30
    metrics = compute_metrics(said, expected=right, clips=[index // 2 for index in range(60)])
    assert metrics["num_clips"] == 30
    assert metrics["intervals_95"]["exact_match"] == (pytest.approx(0.5), pytest.approx(0.5))  # each clip is half right
    assert "intervals_95" in metrics["kinds"]["yes_no"]
    assert "intervals_95" not in compute_metrics(said, expected=right)
