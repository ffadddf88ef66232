"""Splits: no clip on both sides, whatever its path; both sides filled; the same split for the same seed."""

from pathlib import Path

import pytest

from cvft.data.rows import Row
from cvft.data.split import split_by_clip
from cvft.errors import DataError


def make_rows(folder, clips):
    """One row per entry: the name of its clip, or None."""
    rows = []
    for line, clip in enumerate(clips, start=1):
        video = None if clip is None else folder / clip
        if video is not None and not video.exists():
            video.write_bytes(clip.encode() * 10)
        rows.append(Row(f"q{line}", "r", (), video, Path("train.jsonl"), line))
    return rows


def lines(rows):
    return [row.line for row in rows]


@pytest.mark.parametrize("seed", range(10))
def test_no_clip_is_on_both_sides_and_order_is_kept(tmp_path, seed):
    rows = make_rows(tmp_path, [f"clip{number % 13:02d}" for number in range(60)])
    train, val = split_by_clip(rows, val_fraction=0.2, seed=seed)
    assert not {row.video for row in train} & {row.video for row in val}
    assert sorted(lines(train) + lines(val)) == lines(rows)
    assert lines(train) == sorted(lines(train))
    assert lines(val) == sorted(lines(val))
    assert 10 <= len(val) <= 14  # 12 wanted, 4 or 5 rows per clip


@pytest.mark.parametrize("seed", range(10))
def test_equal_bytes_under_two_paths_stay_together(tmp_path, seed):
    rows = make_rows(tmp_path, ["a1", "b1", "c1", "a2"])
    (tmp_path / "a2").write_bytes((tmp_path / "a1").read_bytes())
    train, val = split_by_clip(rows, val_fraction=0.3, seed=seed)
    sides = [{row.video.name for row in side} for side in (train, val)]
    assert any({"a1", "a2"} <= side for side in sides)


def test_text_only_rows_are_split_one_by_one(tmp_path):
    train, val = split_by_clip(make_rows(tmp_path, [None] * 10), val_fraction=0.3, seed=0)
    assert (len(train), len(val)) == (7, 3)


def test_seed_decides_and_folders_do_not(tmp_path):
    names = [f"clip{number}" for number in range(20)]
    (tmp_path / "x").mkdir()
    (tmp_path / "y").mkdir()
    first = split_by_clip(make_rows(tmp_path / "x", names), val_fraction=0.25, seed=1)
    moved = split_by_clip(make_rows(tmp_path / "y", names), val_fraction=0.25, seed=1)
    other = split_by_clip(make_rows(tmp_path / "x", names), val_fraction=0.25, seed=2)
    assert lines(first[1]) == lines(moved[1]) != lines(other[1])


@pytest.mark.parametrize(
    ("clips", "fraction"), [(["a"] * 9 + ["b"], 0.01), (["a", "b"], 0.99), (["a"] * 5 + ["b"] * 5, 0.1)]
)
@pytest.mark.parametrize("seed", range(4))
def test_both_sides_are_filled(tmp_path, clips, fraction, seed):
    train, val = split_by_clip(make_rows(tmp_path, clips), val_fraction=fraction, seed=seed)
    assert train
    assert val
    if len(clips) == 10 and clips[-2] == "a":
        assert {row.video.name for row in val} == {"b"}


@pytest.mark.parametrize(
    ("clips", "fraction", "message"),
    [
        (
            ["a"] * 3,
            0.5,
            "the split of the data has 1 problem\n"
            "  split by clip: got 3 rows of 1 clip, need at least 2 clips, one for each side\n"
            "    hint: name a validation file, or add rows of another clip",
        ),
        (
            ["a", "b"],
            1.0,
            "the split of the data has 1 problem\n"
            "  val_fraction: got `1.0`, need a number between 0 and 1, both excluded",
        ),
    ],
)
def test_split_that_cannot_be_made(tmp_path, clips, fraction, message):
    with pytest.raises(DataError) as caught:
        split_by_clip(make_rows(tmp_path, clips), val_fraction=fraction, seed=0)
    assert str(caught.value) == message
