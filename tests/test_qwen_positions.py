"""Rotary positions of Qwen's video families beyond the goldens: the rules by hand, prefixes, and what generation goes on with."""

import pytest
import torch

from cvft.families.grid import Grid
from cvft.families.network.positions import next_positions, row_positions


def test_text_counts_by_one():
    assert row_positions([0] * 4, grids=[]).tolist() == [[0, 0, 0], [1, 1, 1], [2, 2, 2], [3, 3, 3]]
    assert row_positions([], grids=[]).shape == (0, 3)


def test_a_run_of_grids_moves_in_time():
    """Qwen2.5-VL: 3 grids of 1 x 2 tokens, 1.4 positions from one to the next."""
    types = [0, 1, 1, 1, 1, 1, 1, 0, 0]
    positions = row_positions(types, grids=[Grid(3, 2, 4)], grid_steps=[1.4])
    clip = [[1, 1, 1], [1, 1, 2], [2, 1, 1], [2, 1, 2], [3, 1, 1], [3, 1, 2]]
    assert positions.tolist() == [[0, 0, 0], *clip, [4, 4, 4], [5, 5, 5]]
    assert row_positions(types, grids=[Grid(3, 2, 4)], grid_steps=[1.4], text_positions="transformers5").tolist() == [
        *([0, 0, 0], *clip, [3, 3, 3], [4, 4, 4])
    ]


def test_grids_apart_stand_at_time_zero_of_their_own():
    """Qwen3-VL: each grid starts where the text before it ended; both rules are one."""
    types = [0, 1, 1, 0, 1, 1, 0]
    expected = [[0, 0, 0], [1, 1, 1], [1, 1, 2], [3, 3, 3], [4, 4, 4], [4, 4, 5], [6, 6, 6]]
    for rule in ("released", "transformers5"):
        assert row_positions(types, grids=[Grid(2, 2, 4)], text_positions=rule).tolist() == expected


def test_a_minute_at_two_frames_a_second_is_where_the_variants_part():
    """60 grids of 9 x 16 tokens, one second each: text goes on at 120 more than the clip's start, or at 16 more."""
    types = [0] * 40 + [1] * (60 * 9 * 16) + [0] * 5
    grid = Grid(60, 18, 32)
    for rule, first in (("released", 40 + 119), ("transformers5", 40 + 16)):
        positions = row_positions(types, grids=[grid], grid_steps=[2.0], text_positions=rule)
        assert positions[-5].tolist() == [first] * 3


def test_multiples_of_a_step_are_cut_in_single_precision():
    """As by transformers: 0.29 times 100 is 29 there and 28.999999999999996 in double precision."""
    positions = row_positions([1] * 101, grids=[Grid(101, 2, 2)], grid_steps=[0.29])
    assert positions[100].tolist() == [29, 0, 0]
    assert int(100 * 0.29) == 28


@pytest.mark.parametrize("rule", ["released", "transformers5"])
def test_a_prefix_has_the_same_positions_whatever_follows(rule):
    types = [0] * 7 + [1] * 24 + [0] * 20
    whole = row_positions(types, grids=[Grid(4, 4, 6)], grid_steps=[0.9], text_positions=rule)
    for length in (7, 31, 40):
        assert torch.equal(
            row_positions(types[:length], grids=[Grid(4, 4, 6)], grid_steps=[0.9], text_positions=rule), whole[:length]
        )


@pytest.mark.parametrize("rule", ["released", "transformers5"])
def test_generation_goes_on_as_training_would(rule):
    types = [0] * 3 + [1] * 24 + [0] * 9
    whole = row_positions(types, grids=[Grid(4, 4, 6)], grid_steps=[3.0], text_positions=rule)
    assert torch.equal(next_positions(whole[29], 6), whole[30:])
    batch = next_positions(torch.stack([whole[29], whole[30]]), 5)
    assert batch.shape == (2, 5, 3)
    assert torch.equal(batch[1], whole[31:])


def test_tokens_that_do_not_fill_their_grids_are_a_mistake():
    with pytest.raises(AssertionError, match="5 clip tokens in 2 grids of 2"):
        row_positions([1] * 5, grids=[Grid(2, 2, 4)])
    with pytest.raises(AssertionError, match="clip tokens without a grid"):
        row_positions([0, 1], grids=[])
