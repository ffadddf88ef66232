"""Splits: no clip on both sides, whatever its path; both sides filled; the same split for the same seed, in whatever order."""

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from cvft.data.rows import Row
from cvft.data.split import split_by_clip
from cvft.errors import DataError
from cvft.plan.job import open_job
from cvft.plan.prepare import prepare
from cvft.recipe import load_recipe
from tests.fixtures_video import make_clip
from tests.project import make_project


def make_rows(folder, clips):
    """One row per entry: the name of its clip, or None."""
    rows = []
    for line, clip in enumerate(clips, start=1):
        video = None if clip is None else folder / clip
        if video is not None and not video.exists():
            video.write_bytes(clip.encode() * 10)
        rows.append(Row(f"q{line}", "r", (), () if video is None else (video,), Path("train.jsonl"), line))
    return rows


def lines(rows):
    return [row.line for row in rows]


@pytest.mark.parametrize("seed", range(10))
def test_no_clip_is_on_both_sides_and_order_is_kept(tmp_path, seed):
    rows = make_rows(tmp_path, [f"clip{number % 13:02d}" for number in range(60)])
    train, val = split_by_clip(rows, val_fraction=0.2, seed=seed)
    assert not {row.videos[0] for row in train} & {row.videos[0] for row in val}
    assert sorted(lines(train) + lines(val)) == lines(rows)
    assert lines(train) == sorted(lines(train))
    assert lines(val) == sorted(lines(val))
    assert 10 <= len(val) <= 14  # 12 wanted, 4 or 5 rows per clip


@pytest.mark.parametrize("seed", range(10))
def test_equal_bytes_under_two_paths_stay_together(tmp_path, seed):
    rows = make_rows(tmp_path, ["a1", "b1", "c1", "a2"])
    (tmp_path / "a2").write_bytes((tmp_path / "a1").read_bytes())
    train, val = split_by_clip(rows, val_fraction=0.3, seed=seed)
    sides = [{row.videos[0].name for row in side} for side in (train, val)]
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
        assert {row.videos[0].name for row in val} == {"b"}


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


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_the_rows_and_the_names_of_clips_do_not_matter(tmp_path, seed):
    rows = make_rows(tmp_path, [None if number % 7 == 0 else f"clip{number % 11}" for number in range(60)])
    rows = [replace(row, extra={"category": f"{index % 3}"}) for index, row in enumerate(rows)]
    _, val = split_by_clip(rows, val_fraction=0.3, seed=seed)
    shuffled = random.Random(seed).sample(rows, len(rows))
    assert {row.query for row in split_by_clip(shuffled, val_fraction=0.3, seed=seed)[1]} == {row.query for row in val}
    clips = dict.fromkeys(row.videos[0] for row in rows if row.videos)
    renamed = {clip: clip.rename(tmp_path / f"x{99 - number}") for number, clip in enumerate(clips)}
    moved = [replace(row, videos=tuple(renamed[clip] for clip in row.videos)) for row in rows]
    assert [row.query for row in split_by_clip(moved, val_fraction=0.3, seed=seed)[1]] == [row.query for row in val]


def test_equal_rows_of_text_stay_together(tmp_path):
    rows = [
        replace(row, query="same") if number % 2 else row for number, row in enumerate(make_rows(tmp_path, [None] * 20))
    ]
    for seed in range(6):
        _, val = split_by_clip(rows, val_fraction=0.3, seed=seed)
        assert len({row.query for row in val}) == len(val) or sum(row.query == "same" for row in val) == 10


def test_files_of_a_group_stay_together(tmp_path):
    rows = make_rows(tmp_path, [f"clip{number}" for number in range(12)])
    contents = {row.videos[0]: f"{number:064d}" for number, row in enumerate(rows)}
    groups = {f"{number:064d}": "alike" for number in (2, 5, 9)}
    for seed in range(8):
        sides = split_by_clip(rows, val_fraction=0.4, seed=seed, contents=contents, groups=groups)
        assert sum({"q3", "q6", "q10"} <= {row.query for row in side} for side in sides) == 1


def test_held_out_rows_have_the_categories_of_all(tmp_path):
    """Each clip has rows of one category, so that clips taken as they come would miss some of them."""
    chance = random.Random(0)
    kinds = ["what"] * 30 + ["when"] * 20 + ["who"] * 8
    clips = [(f"clip{number:02d}", kind) for number, kind in enumerate(kinds) for _ in range(chance.randint(1, 6))]
    rows = make_rows(tmp_path, [clip for clip, _ in clips])
    with_kinds = [replace(row, extra={"category": kind}) for row, (_, kind) in zip(rows, clips, strict=True)]
    kind_of = {row.query: kind for row, (_, kind) in zip(rows, clips, strict=True)}

    def furthest(val):
        held_out, whole = Counter(kind_of[row.query] for row in val), Counter(kind_of.values())
        return max(abs(held_out[kind] / len(val) - count / len(rows)) for kind, count in whole.items())

    far = [furthest(split_by_clip(with_kinds, val_fraction=0.2, seed=seed)[1]) for seed in range(10)]
    plain = [furthest(split_by_clip(rows, val_fraction=0.2, seed=seed)[1]) for seed in range(10)]
    # of 1; the rest is that about 40 rows come in clips of up to 6
    assert max(far) < 0.08
    assert sum(far) < 0.7 * sum(plain)


def test_a_bound_is_kept(tmp_path):
    rows = make_rows(tmp_path, [f"clip{number // 3}" for number in range(60)])
    for seed in range(6):
        _, val = split_by_clip(rows, val_fraction=0.4, seed=seed, max_val_rows=7)
        assert len(val) == 6
        _, val = split_by_clip(rows, val_fraction=0.1, seed=seed, max_val_rows=50)
        assert len(val) == 6
    with pytest.raises(DataError) as caught:
        split_by_clip(rows, val_fraction=0.4, seed=0, max_val_rows=2)
    assert "data.val_rows: got `2`, need at least 3 rows of the clip with the fewest" in str(caught.value)


def test_clips_that_look_alike_stay_together_where_a_recipe_asks_for_it(tmp_path):
    rows = []
    for number in range(6):  # of each clip two files: the second is smaller, coarser, and lacks the first half second
        first = {"num_frames": 50, "numbers_from": 100 * number, "fps": 10, "num_b_frames": 0}
        make_clip(tmp_path / f"{number}a.mp4", **first)
        more = {"num_frames": 45, "numbers_from": 100 * number + 5, "options": {"crf": "34"}}
        make_clip(tmp_path / f"{number}b.mp4", **{**first, **more})
        rows += [{"query": f"{number}{name}", "response": "r", "videos": [f"{number}{name}.mp4"]} for name in "ab"]
    options = {"val": None, "val_fraction": 0.34}
    recipe = make_project(tmp_path, rows=rows, data={**options, "split_by": "looks"})
    counts = []
    for seed in range(5):
        prepared = prepare(open_job(load_recipe(recipe, overrides=[f"seed={seed}"])))
        counts.append(Counter(row.query[0] for row in prepared.val_rows))
        assert len(prepared.val_rows) == 4
    assert all(set(count.values()) == {2} for count in counts)
    apart = []
    for seed in range(5):
        plain = load_recipe(recipe, overrides=[f"seed={seed}", "data.split_by=files"])
        apart.append(Counter(row.query[0] for row in prepare(open_job(plain)).val_rows))
    assert any(1 in count.values() for count in apart)
