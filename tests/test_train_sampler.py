"""Rows dealt out to ranks: the same rows in every step for any number of ranks, each exactly once per epoch."""

import itertools

import pytest
import torch

from cvft.data.groups import (
    RowShape,
    clips_per_step,
    encodes_a_clip_again,
    group_tokens,
    make_steps,
    most_rows_per_clip,
)
from cvft.data.packing import BatchLimits, pack, padding_for
from cvft.families.cogvlm2_video.runtime import RowEncoder
from cvft.families.family import IGNORED_LABEL
from cvft.train.sampler import GlobalBatchSampler, GroupedRows
from tests.tiny import tiny_processor

CASES = [
    (num_rows, global_batch, micro_batch, num_ranks, max_rows)
    for num_rows, global_batch, micro_batch, num_ranks, max_rows in itertools.product(
        (1, 3, 8, 13, 33), (4, 8), (1, 2), (1, 2, 4), (1, 3, 8)
    )
    if global_batch % (micro_batch * num_ranks) == 0
]


def make_shapes(num_rows, *, seed=3) -> list[RowShape]:
    """Rows of other lengths; about three per clip, every seventh without one."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(5, 60, (num_rows,), generator=generator).tolist()
    clips = torch.randint(max(1, num_rows // 3), (num_rows,), generator=generator).tolist()
    return [
        RowShape((), 1, length) if number % 7 == 6 else RowShape((clip,), 20 + 10 * clip, length)
        for number, (clip, length) in enumerate(zip(clips, lengths, strict=True))
    ]


def limits_of(global_batch, micro_batch, max_rows, shapes) -> BatchLimits:
    tokens = micro_batch * max(shape.num_tokens for shape in shapes)
    return BatchLimits(global_batch, max_rows, micro_batch, tokens)


def steps_of_ranks(num_rows, global_batch, micro_batch, num_ranks, max_rows, *, epoch=0, seed=5, skip_batches=0):
    shapes = make_shapes(num_rows)
    samplers = [
        GlobalBatchSampler(
            shapes,
            limits=limits_of(global_batch, micro_batch, max_rows, shapes),
            num_ranks=num_ranks,
            rank=rank,
            seed=seed,
            skip_batches=skip_batches,
        )
        for rank in range(num_ranks)
    ]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    steps = [list(sampler) for sampler in samplers]
    assert [len(sampler) for sampler in samplers] == [len(own) for own in steps]
    return steps


def rows_of(steps_of_rank) -> list[list[int]]:
    """The rows of each step of one rank, padding left out."""
    return [[row for batch in step for group in batch for row in group if row >= 0] for step in steps_of_rank]


@pytest.mark.parametrize("case", CASES)
def test_every_row_comes_once_per_epoch_and_all_ranks_do_as_many_passes(case):
    steps = steps_of_ranks(*case)
    for of_ranks in zip(*steps, strict=True):
        assert len({len(own) for own in of_ranks}) == 1
    assert sorted(row for own in steps for rows in rows_of(own) for row in rows) == list(range(case[0]))


@pytest.mark.parametrize("case", CASES)
def test_a_step_holds_the_same_rows_for_any_number_of_ranks(case):
    num_rows, global_batch, _, _, max_rows = case
    (of_one,) = [rows_of(own) for own in steps_of_ranks(num_rows, global_batch, 1, 1, max_rows)]
    together = zip(*map(rows_of, steps_of_ranks(*case)), strict=True)
    assert [sorted(itertools.chain(*own)) for own in together] == [sorted(rows) for rows in of_one]
    assert all(len(rows) == global_batch for rows in of_one[:-1])


@pytest.mark.parametrize("case", CASES)
def test_what_goes_together_keeps_to_the_limits(case):
    num_rows, global_batch, micro_batch, _, max_rows = case
    shapes = make_shapes(num_rows)
    limits = limits_of(global_batch, micro_batch, max_rows, shapes)
    for batch in itertools.chain(*itertools.chain(*steps_of_ranks(*case))):
        if batch == ((padding_for(batch[0][0]),),):
            continue
        for group in batch:
            assert len(group) <= max_rows
            assert len({shapes[row].clips for row in group}) == 1
            assert len(group) == 1 or shapes[group[0]].clips, "rows without a clip share nothing"
        if max_rows == 1:
            assert len(batch) <= micro_batch
        else:
            padded = len(batch) * max(group_tokens(group, shapes) for group in batch)
            assert len(batch) == 1 or padded <= limits.micro_batch_tokens


def test_the_order_is_drawn_anew_each_epoch_and_repeats_with_the_seed():
    for max_rows in (1, 4):
        case = (33, 4, 1, 2, max_rows)
        assert steps_of_ranks(*case, epoch=1) == steps_of_ranks(*case, epoch=1)
        assert steps_of_ranks(*case, epoch=1) != steps_of_ranks(*case, epoch=0)
        assert steps_of_ranks(*case, seed=6) != steps_of_ranks(*case)
    (of_one,) = steps_of_ranks(5, 4, 2, 1, 1, seed=None)
    assert [sorted(rows) for rows in rows_of(of_one)] == [[0, 1, 2, 3], [4]]


def test_rows_of_a_clip_meet_and_are_drawn_anew():
    shapes = [RowShape((number // 8,), 50, 10) for number in range(64)]
    options = {"global_batch_rows": 16, "max_rows_per_group": 4}
    first, second = (list(make_steps(shapes, **options, seed=1, epoch=epoch)) for epoch in (0, 1))
    for steps in (first, second):
        assert {len(group) for step in steps for group in step} == {4}
    assert {frozenset(group) for step in first for group in step} != {frozenset(g) for step in second for g in step}
    # clips meet at random: a step of four groups holds rows of fewer clips only by chance
    assert 3 < clips_per_step(shapes, **options, seed=1) <= 4
    assert clips_per_step(shapes, global_batch_rows=16, max_rows_per_group=1, seed=1) > 6
    assert most_rows_per_clip(shapes) == 8
    assert most_rows_per_clip([RowShape((), 1, 5)] * 3) == 1


def test_rows_without_a_question_go_apart():
    """Every second row has none: its answer follows the clip at once, and what predicts it cannot predict another's."""
    shapes = [RowShape((number // 8,), 50, 10, num_label_tokens=10 if number % 2 else 4) for number in range(64)]
    options = {"global_batch_rows": 16, "max_rows_per_group": 4}
    for seed in (1, None):
        groups = [group for step in make_steps(shapes, **options, seed=seed) for group in step]
        assert sorted(row for group in groups for row in group) == list(range(64))
        for group in groups:
            assert len(group) == 1 or not any(row % 2 for row in group)
        assert sum(len(group) == 4 for group in groups) >= 4
    assert most_rows_per_clip(shapes) == 4
    assert most_rows_per_clip([RowShape((0,), 50, 10, num_label_tokens=10)] * 8) == 1
    assert encodes_a_clip_again([RowShape((0,), 50, 10, num_label_tokens=10)] * 2, max_rows_per_group=8)
    assert encodes_a_clip_again(
        [RowShape((0,), 50, 10), RowShape((0,), 50, 10, num_label_tokens=10)], max_rows_per_group=8
    )
    assert encodes_a_clip_again([RowShape((0,), 50, 10)] * 9, max_rows_per_group=8)
    assert not encodes_a_clip_again([RowShape((0,), 50, 10)] * 8 + [RowShape((1,), 50, 4, 4)], max_rows_per_group=8)


def test_ranks_without_work_take_half_of_another_ranks():
    shapes = [RowShape((0,), 50, 10)] * 4
    limits = BatchLimits(4, 4, 1, 60)
    assert pack([(0, 1, 2, 3)], shapes, limits=limits, num_ranks=1) == [[((0, 1, 2, 3),)]]
    assert pack([(0, 1, 2, 3)], shapes, limits=limits, num_ranks=2) == [[((0, 1),)], [((2, 3),)]]
    of_eight = pack([(0, 1, 2, 3)], shapes, limits=limits, num_ranks=8)
    assert of_eight == [[((row,),)] for row in range(4)] + [[((padding_for(0),),)]] * 4


def test_skipping_leaves_out_the_first_steps_only():
    whole = steps_of_ranks(33, 4, 1, 2, 4)
    assert steps_of_ranks(33, 4, 1, 2, 4, skip_batches=3) == [own[3:] for own in whole]


def encoded(ids, labels, *, num_prefix) -> dict:
    """A row as ms-swift gives it: ids and labels as lists, and keys that are none of our sequences."""
    segments = torch.tensor([0] * num_prefix + [1] * (len(ids) - num_prefix))
    return {"input_ids": ids, "labels": labels, "segment_ids": segments, "length": len(ids)}


def test_items_are_groups_and_padding_has_all_labels_ignored():
    rows = GroupedRows(
        [
            encoded([9, 1, 2], [-100, -100, 2], num_prefix=1),
            encoded([9, 3, 4, 5], [-100, -100, 4, 5], num_prefix=1),
        ],
        encoder=RowEncoder(tiny_processor(), sampling="chat"),
    )
    group, single = rows[((0, 1), (1,))]
    assert group["input_ids"].tolist() == [9, 1, 2, 3, 4, 5]
    assert group["labels"].tolist() == [-100, -100, 2, -100, 4, 5]
    assert group["segment_ids"].tolist() == [0, 1, 1, 2, 2, 2]
    assert single["segment_ids"].tolist() == [0, 1, 1, 1]
    (padding,) = rows[((padding_for(1),),)]
    assert padding["input_ids"].tolist() == [9, 3, 4, 5]
    assert set(padding["labels"].tolist()) == {IGNORED_LABEL}
