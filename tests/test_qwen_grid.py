"""Sizes and grids of Qwen's video families: the makers' arithmetic, and what is refused; times of grids."""

import math

import pytest

from cvft.errors import ValueProblem
from cvft.families.grid import Grid
from cvft.families.qwen_vl.grid import choose_size, grid_of
from cvft.families.qwen_vl.times import second_per_grid, shown_seconds
from tests.qwen_cases import draw_sizes
from tests.qwen_golden import NAMES, golden


@pytest.mark.parametrize("name", NAMES)
def test_sizes_equal_the_makers(name):
    expected = golden(name).sizes
    assert sum(size is None for size in expected) == 1
    for (height, width, factor, low, high), size in zip(draw_sizes(), expected, strict=True):
        if size is None:
            with pytest.raises(ValueProblem):
                choose_size(height, width, factor=factor, min_tokens=low, max_tokens=high)
        else:
            assert list(choose_size(height, width, factor=factor, min_tokens=low, max_tokens=high)) == size


@pytest.mark.parametrize("num_px", [90, 360, 720, 1080, 2160])
@pytest.mark.parametrize(("low", "high"), [(1, 16), (4, 60), (16, 120), (128, 768)])
def test_both_bounds_hold_for_common_frames(num_px, low, high):
    for height, width in [(num_px, num_px * 16 // 9), (num_px * 16 // 9, num_px), (num_px, num_px)]:
        size = choose_size(height, width, factor=32, min_tokens=low, max_tokens=high)
        assert all(side % 32 == 0 for side in size)
        assert low <= size[0] * size[1] // 32**2 <= high


def test_a_grid_counts_patches_and_tokens():
    grid = grid_of(7, 360, 640, patch_px=14, merge=2, temporal_patch=2, min_tokens=16, max_tokens=60)
    assert grid == Grid(4, 10, 20)
    assert (grid.num_patches, grid.num_tokens_per_grid, grid.num_tokens) == (800, 50, 200)


def test_one_frame_fills_a_grid():
    assert grid_of(1, 32, 32, patch_px=16, merge=2, temporal_patch=2, min_tokens=1, max_tokens=1) == Grid(1, 2, 2)


def test_very_long_frames_are_refused_with_the_limit():
    assert choose_size(10, 2000, factor=28, min_tokens=1, max_tokens=768)
    with pytest.raises(ValueProblem) as error:
        choose_size(10, 2001, factor=28, min_tokens=1, max_tokens=768)
    assert str(error.value.at("clip.mp4")).startswith(
        "clip.mp4: got frames of `2001x10` px, need a long side at most 200 times the short one"
    )


@pytest.mark.parametrize(("low", "high"), [(0, 4), (5, 4), (-1, -1)])
def test_bounds_that_contradict_each_other_are_refused(low, high):
    with pytest.raises(ValueProblem):
        choose_size(64, 64, factor=28, min_tokens=low, max_tokens=high)


def test_seconds_are_the_mean_of_a_grids_frames_and_the_last_one_is_repeated():
    assert shown_seconds([0, 1.0, 2.0, 3.0], temporal_patch=2) == (0.5, 2.5)
    assert shown_seconds([0, 1.0, 2.0], temporal_patch=2) == (0.5, 2.0)
    assert shown_seconds([0.7], temporal_patch=2) == (0.7,)


def test_seconds_per_grid_lose_their_fraction_when_truncated():
    how = {"num_frames_total": 100, "avg_fps": 25.0, "temporal_patch": 2}
    assert second_per_grid(8, grid_seconds="exact", **how) == 1.0
    assert math.isclose(second_per_grid(12, grid_seconds="exact", **how), 2 / 3)
    assert second_per_grid(12, grid_seconds="truncated", **how) == 0.0
    assert second_per_grid(6, grid_seconds="truncated", **how) == 1.0
