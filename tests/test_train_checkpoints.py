"""Checkpoints on disk: whole or absent, pruned without losing the best, continued only by ranks that fit."""

import dataclasses
import errno
from pathlib import Path

import pytest

from cvft.errors import RunError
from cvft.train.checkpoints import (
    ASIDE,
    check_can_continue,
    find_best_checkpoint,
    find_checkpoints,
    find_last_checkpoint,
    is_disk_full,
    prune,
    publish,
    remove_leftovers,
    set_broken_aside,
)
from cvft.train.marks import MARK_FILE, BrokenCheckpointError, CheckpointMark, check_files, read_mark
from tests.broken_json import broken_forms
from tests.test_plan import plan_of


def save(train: Path, step: int, *, eval_loss: float | None = None, strategy="single", num_ranks=1) -> Path:
    aside = train / ASIDE / f"checkpoint-{step}"
    (aside / "global_step").mkdir(parents=True)
    (aside / "global_step" / "state.pt").write_text(f"state of step {step}")
    return publish(train, CheckpointMark(step, strategy, num_ranks, eval_loss))


def names(train: Path) -> list[str]:
    return [path.name for path in find_checkpoints(train)]


def test_a_checkpoint_gets_its_name_when_it_is_whole(tmp_path):
    checkpoint = save(tmp_path, 10, eval_loss=0.5)
    assert checkpoint == tmp_path / "checkpoint-10" == find_last_checkpoint(tmp_path)
    assert read_mark(checkpoint) == CheckpointMark(10, "single", 1, 0.5)
    assert not (tmp_path / ASIDE).exists()


def test_a_newer_training_replaces_what_lies_under_the_name(tmp_path):
    save(tmp_path, 10, eval_loss=0.5)
    assert read_mark(save(tmp_path, 10, eval_loss=0.25)).eval_loss == 0.25
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-10"]


def test_a_checkpoint_that_was_being_replaced_is_found_again(tmp_path):
    """As a kill leaves it on a disk that cannot exchange two names: the old one away, the new one not yet there."""
    save(tmp_path, 10, eval_loss=0.5).rename(tmp_path / ".checkpoint-10.replaced-12ab34cd")
    (tmp_path / ASIDE / "checkpoint-10").mkdir(parents=True)
    (tmp_path / ".checkpoint-5.removed-12ab34cd").mkdir()
    assert names(tmp_path) == []
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-10"]
    assert read_mark(tmp_path / "checkpoint-10").eval_loss == 0.5


def test_what_was_left_half_written_is_no_checkpoint_and_goes(tmp_path):
    save(tmp_path, 10)
    (tmp_path / ASIDE / "checkpoint-20").mkdir(parents=True)
    (tmp_path / "removed-checkpoint-5").mkdir()
    assert names(tmp_path) == ["checkpoint-10"]
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-10"]


def test_the_newest_and_the_best_stay(tmp_path):
    for step, eval_loss in ((2, 0.9), (4, 0.1), (6, None), (8, 0.5), (10, 0.4)):
        save(tmp_path, step, eval_loss=eval_loss)
    assert find_best_checkpoint(tmp_path) == tmp_path / "checkpoint-4"
    prune(tmp_path, keep=2)
    assert names(tmp_path) == ["checkpoint-4", "checkpoint-8", "checkpoint-10"]
    prune(tmp_path, keep=1)
    assert names(tmp_path) == ["checkpoint-4", "checkpoint-10"]


def test_checkpoints_are_sorted_by_number(tmp_path):
    for step in (9, 10, 100):
        save(tmp_path, step)
    assert names(tmp_path) == ["checkpoint-9", "checkpoint-10", "checkpoint-100"]
    assert find_best_checkpoint(tmp_path) is None


PLAN = plan_of().worker


def plan_for(strategy: str, num_ranks: int):
    return dataclasses.replace(PLAN, strategy=strategy, num_ranks=num_ranks)


def test_the_same_ranks_continue_without_a_word(tmp_path):
    assert check_can_continue(save(tmp_path, 1), plan_for("single", 1)) is None
    assert check_can_continue(save(tmp_path, 2, strategy="zero2", num_ranks=2), plan_for("zero2", 2)) is None


@pytest.mark.parametrize(
    ("before", "now"), [(("single", 1), ("ddp", 2)), (("ddp", 2), ("ddp", 4)), (("ddp", 4), ("single", 1))]
)
def test_other_ranks_continue_and_are_told_what_changes(tmp_path, before, now):
    checkpoint = save(tmp_path, 3, strategy=before[0], num_ranks=before[1])
    note = check_can_continue(checkpoint, plan_for(*now))
    assert note is not None
    assert f"written by {before[0]} on {before[1]} rank" in note
    assert f"continues as {now[0]} on {now[1]} rank" in note


@pytest.mark.parametrize(
    ("before", "now"), [(("zero2", 2), ("zero2", 4)), (("zero2", 2), ("ddp", 2)), (("single", 1), ("zero2", 2))]
)
def test_an_optimizer_state_in_pieces_is_not_continued_by_other_ranks(tmp_path, before, now):
    checkpoint = save(tmp_path, 3, strategy=before[0], num_ranks=before[1])
    with pytest.raises(RunError, match="fits only the ranks that wrote it"):
        check_can_continue(checkpoint, plan_for(*now))


def test_a_full_disk_is_told_by_the_number_or_by_the_words(tmp_path):
    assert is_disk_full(OSError(errno.ENOSPC, "No space left on device"), tmp_path)
    assert is_disk_full(RuntimeError("I/O error: No space left on device (os error 28)"), tmp_path)
    assert not is_disk_full(RuntimeError("something else"), tmp_path)


def flip_bit(path: Path, *, at: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("loss", [None, 0.5, 1e-30, float("nan"), float("inf")])
def test_a_mark_says_what_was_written(tmp_path, loss):
    checkpoint = save(tmp_path, 10, eval_loss=loss)
    check_files(checkpoint)
    assert repr(read_mark(checkpoint)) == repr(CheckpointMark(10, "single", 1, loss))


def test_a_damaged_checkpoint_is_set_aside_and_the_next_older_one_is_the_last(tmp_path):
    for step in (2, 4, 6, 8):
        save(tmp_path, step)
    flip_bit(tmp_path / "checkpoint-8" / "global_step" / "state.pt")
    (tmp_path / "checkpoint-6" / "global_step" / "state.pt").unlink()
    (tmp_path / "checkpoint-2" / MARK_FILE).unlink()
    assert set_broken_aside(tmp_path) == [
        "checkpoint-8 is not taken, because global_step/state.pt is not as it was written; it now lies in broken-checkpoint-8",
        "checkpoint-6 is not taken, because global_step/state.pt is missing; it now lies in broken-checkpoint-6",
        f"checkpoint-2 is not taken, because {MARK_FILE} is missing; it now lies in broken-checkpoint-2",
    ]
    assert find_last_checkpoint(tmp_path) == tmp_path / "checkpoint-4"
    assert set_broken_aside(tmp_path) == []


def test_what_others_put_beside_checkpoints_is_left_alone(tmp_path):
    save(tmp_path, 4)
    for name in ("checkpoint-final", "checkpoint-", "checkpoint-04", "checkpoint--1", "checkpoint-" + "9" * 5000):
        if len(name) < 200:
            (tmp_path / name).mkdir()
            (tmp_path / name / MARK_FILE).write_text("{}")
    (tmp_path / "checkpoint-9").write_text("a file")
    assert names(tmp_path) == ["checkpoint-4"]
    assert set_broken_aside(tmp_path) == []


def test_every_flipped_bit_of_a_mark_is_noticed(tmp_path):
    checkpoint = save(tmp_path, 10, eval_loss=0.25)
    whole = (checkpoint / MARK_FILE).read_bytes()
    unnoticed = 0
    for at in range(len(whole)):
        flip_bit(checkpoint / MARK_FILE, at=at)
        try:
            read = read_mark(checkpoint)
        except BrokenCheckpointError:
            pass
        else:
            # white space between tokens may become other white space: what is said stays the same
            assert read == CheckpointMark(10, "single", 1, 0.25)
            unnoticed += 1
        (checkpoint / MARK_FILE).write_bytes(whole)
    assert unnoticed <= whole.count(b" ") + whole.count(b"\n")


def test_a_mark_of_any_other_form_is_broken_and_never_an_exception_of_another_kind(tmp_path):
    checkpoint = save(tmp_path, 10)
    whole = (checkpoint / MARK_FILE).read_bytes()
    num_tried = 0
    for form in broken_forms(whole, seed=10):
        (checkpoint / MARK_FILE).write_bytes(form)
        with pytest.raises(BrokenCheckpointError):
            check_files(checkpoint)
        assert names(tmp_path) == []
        num_tried += 1
    assert num_tried > 150
    (checkpoint / MARK_FILE).unlink()
    (checkpoint / MARK_FILE).mkdir()
    assert [note.split(",")[0] for note in set_broken_aside(tmp_path)] == ["checkpoint-10 is not taken"]
