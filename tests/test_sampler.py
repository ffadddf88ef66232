"""Rows dealt out to ranks: the same rows in every step for any number of ranks, each exactly once per epoch."""

import itertools

import pytest

from cvft.engine.sampler import GlobalBatchSampler, RowsOrPadding, padding_for

CASES = [
    (num_rows, global_batch, micro_batch, num_ranks)
    for num_rows, global_batch, micro_batch, num_ranks in itertools.product(
        (1, 3, 8, 13, 33), (4, 8), (1, 2), (1, 2, 4)
    )
    if global_batch % (micro_batch * num_ranks) == 0
]


def batches_of_ranks(num_rows, global_batch, micro_batch, num_ranks, *, epoch=0, **options) -> list[list[list[int]]]:
    samplers = [
        GlobalBatchSampler(
            num_rows,
            global_batch_rows=global_batch,
            micro_batch_rows=micro_batch,
            num_ranks=num_ranks,
            rank=rank,
            **{"seed": 5, **options},
        )
        for rank in range(num_ranks)
    ]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    batches = [list(sampler) for sampler in samplers]
    assert [len(sampler) for sampler in samplers] == [len(own) for own in batches]
    return batches


def steps_of(batches: list[list[list[int]]], *, passes_per_step: int) -> list[list[int]]:
    """The rows of each step over all ranks, padding left out."""
    num_passes = len(batches[0])
    return [
        sorted(row for own in batches for batch in own[start : start + passes_per_step] for row in batch if row >= 0)
        for start in range(0, num_passes, passes_per_step)
    ]


@pytest.mark.parametrize("case", CASES)
def test_every_row_comes_once_per_epoch_and_all_ranks_do_as_many_passes(case):
    batches = batches_of_ranks(*case)
    assert len({len(own) for own in batches}) == 1
    assert sorted(row for own in batches for batch in own for row in batch if row >= 0) == list(range(case[0]))
    assert all(len(batch) <= case[2] and batch for own in batches for batch in own)


@pytest.mark.parametrize("case", CASES)
def test_a_step_holds_the_same_rows_for_any_number_of_ranks(case):
    num_rows, global_batch, micro_batch, num_ranks = case
    of_one = steps_of(batches_of_ranks(num_rows, global_batch, 1, 1), passes_per_step=global_batch)
    passes = global_batch // (micro_batch * num_ranks)
    assert steps_of(batches_of_ranks(*case), passes_per_step=passes) == of_one


def test_the_order_is_drawn_anew_each_epoch_and_repeats_with_the_seed():
    assert batches_of_ranks(13, 4, 1, 2, epoch=1) == batches_of_ranks(13, 4, 1, 2, epoch=1)
    assert batches_of_ranks(13, 4, 1, 2, epoch=1) != batches_of_ranks(13, 4, 1, 2, epoch=0)
    assert batches_of_ranks(13, 4, 1, 2, seed=6) != batches_of_ranks(13, 4, 1, 2)
    assert batches_of_ranks(5, 4, 2, 1, seed=None) == [[[0, 1], [2, 3], [4]]]


def test_skipping_leaves_out_the_first_passes_only():
    whole = batches_of_ranks(13, 4, 1, 2)
    assert batches_of_ranks(13, 4, 1, 2, skip_batches=3) == [own[3:] for own in whole]


def test_padding_is_a_row_of_the_step_with_all_labels_ignored():
    rows = RowsOrPadding([{"input_ids": [1, 2], "labels": [-100, 2]}, {"input_ids": [3], "labels": [3]}])
    assert rows[1] == {"input_ids": [3], "labels": [3]}
    assert rows[padding_for(0)] == {"input_ids": [1, 2], "labels": [-100, -100]}
    # five rows, two ranks: the last step has one row, which rank 1 gets as padding
    batches = batches_of_ranks(5, 4, 1, 2, seed=None)
    assert (batches[0][-1], batches[1][-1]) == ([4], [padding_for(4)])
