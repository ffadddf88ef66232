"""Rows shared out over ranks: each once, in the batches of one process, about evenly, clips whole where they can be."""

import json
import random
from pathlib import Path

import pytest

from cvft.data.rows import Row, make_rows
from cvft.errors import CvftError, ModelError
from cvft.plan.machine import device_of_rank
from cvft.plan.ranks import check_num_ranks
from cvft.predict.batches import SLACK_SHARE, clips_of, make_batches, share_out
from cvft.predict.placement import spreads_over_gpus
from cvft.predict.ranks import error_from, error_to, name_rank

CLIPS = Path(__file__).parent.parent / "datasets" / "tiny_shapes" / "clips"
NAMES = sorted(path.name for path in CLIPS.glob("*.mp4"))


def rows_about(clips: list[int | None]) -> list[Row]:
    columns = [
        {"query": f"{number}?", "videos": [] if clip is None else [str(CLIPS / NAMES[clip])]}
        for number, clip in enumerate(clips)
    ]
    return make_rows(list(enumerate(columns, 1)), source=Path("rows"), video_root=Path.cwd(), require_response=False)


def random_rows(dice: random.Random, num_rows: int) -> list[Row]:
    """Rows about few clips or many, some without one, mixed."""
    clips: list[int | None] = []
    while len(clips) < num_rows:
        clips += [dice.choice([None, *range(len(NAMES))])] * dice.choice([1, 1, 2, 5, 30])
    dice.shuffle(clips)
    return rows_about(clips[:num_rows])


@pytest.mark.parametrize("seed", range(12))
def test_any_number_of_shares_is_the_batches_of_one_process(seed):
    dice = random.Random(seed)
    num_rows, batch_rows = dice.randint(1, 200), dice.choice([1, 3, 4, 16])
    rows = random_rows(dice, num_rows)
    batches = make_batches(rows, batch_rows)
    assert sorted(number for batch in batches for number in batch) == list(range(num_rows))
    done = set(dice.sample(range(num_rows), dice.choice([0, num_rows // 2, num_rows - 1])))
    left = [kept for batch in batches if (kept := [number for number in batch if number not in done])]
    for num_shares in (1, 2, 3, 8, 1000):
        shares = share_out(rows, batch_rows=batch_rows, num_shares=num_shares, done=done)
        assert [batch for share in shares for batch in share] == left
        assert len(shares) == min(num_shares, len(left))
        assert all(shares)
        even = (num_rows - len(done)) / num_shares
        most = max(sum(map(len, share)) for share in shares)
        assert most <= even * (1 + 2 * SLACK_SHARE) + 2 * batch_rows


def test_nothing_to_do_is_no_share():
    rows = rows_about([0, 1])
    assert share_out(rows, batch_rows=1, num_shares=2, done={0, 1}) == []
    assert share_out([], batch_rows=1, num_shares=2) == []


@pytest.mark.parametrize("num_shares", [2, 3, 4])
def test_rows_of_a_clip_are_answered_by_one_rank(num_shares):
    dice = random.Random(num_shares)
    # clips of one, two and three batches
    clips = [clip for clip in range(48) for _ in range(4 * (1 + clip % 3))]
    dice.shuffle(clips)
    rows = rows_about(clips)
    shares = share_out(rows, batch_rows=4, num_shares=num_shares)
    of_row = clips_of(rows)
    shown = [{of_row[number] for batch in share for number in batch} for share in shares]
    assert sum(map(len, shown)) == len(set.union(*shown)) == 48
    sizes = [sum(map(len, share)) for share in shares]
    assert max(sizes) - min(sizes) <= 2 * SLACK_SHARE * len(rows) / num_shares


def test_one_clip_with_all_rows_keeps_no_rank_idle():
    shares = share_out(rows_about([0] * 40), batch_rows=4, num_shares=2)
    assert [len(share) for share in shares] == [5, 5]


def test_each_rank_is_shown_one_gpu():
    assert [device_of_rank(rank, None) for rank in range(3)] == ["0", "1", "2"]
    assert [device_of_rank(rank, "5, 3,GPU-8f6a") for rank in range(3)] == ["5", "3", "GPU-8f6a"]


def test_a_rank_without_room_says_how_one_process_has_it():
    with pytest.raises(ModelError) as raised:
        spreads_over_gpus(40 << 30, [24 << 30])
    error = name_rank(error_from(json.loads(json.dumps(error_to(raised.value)))), "rank 1 of 2 (GPU 1)")
    assert type(error) is ModelError
    assert str(error) == (
        "this machine, rank 1 of 2 (GPU 1), has 1 problem\n"
        "  memory of the GPUs: got 24.0 GiB free, need 42.0 GiB for the weights, and 2 GiB more on each\n"
        "    hint: each rank needs room for the whole model; without --num-gpus one process spreads it over all GPUs"
    )


def test_more_ranks_than_gpus_are_refused():
    check_num_ranks(2, device="cuda", num_gpus_present=2)
    check_num_ranks(64, device="cpu", num_gpus_present=0)
    with pytest.raises(CvftError) as raised:
        check_num_ranks(3, device="cuda", num_gpus_present=2)
    assert str(raised.value) == (
        "this machine has 1 problem\n"
        "  --num-gpus: got `3`, need at most the 2 GPUs present\n"
        "    hint: does CUDA_VISIBLE_DEVICES hide some?"
    )
    with pytest.raises(CvftError, match="--num-gpus: got `2000`, need at most 1024"):
        check_num_ranks(2000, device="cpu", num_gpus_present=0)
