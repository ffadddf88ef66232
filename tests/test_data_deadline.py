"""Deadlines: one thread ends what takes too long, and nothing else, in each process that has any."""

import multiprocessing
import threading

from cvft.data.video import deadline
from cvft.data.video.deadline import Deadline

HANG_S = 300
"""How long a test waits for what must come: no measure of speed."""


def test_one_that_is_over_kills_and_those_that_were_ended_or_extended_do_not():
    killed = {name: threading.Event() for name in ("over", "ended", "extended", "later")}
    late = Deadline(killed["later"].set, HANG_S)  # what the thread sleeps for must not keep it from an earlier one
    ended = Deadline(killed["ended"].set, 0.2)
    ended.end()
    extended = Deadline(killed["extended"].set, 0.2)
    extended.extend(HANG_S)
    over = Deadline(killed["over"].set, 0.3)
    assert killed["over"].wait(HANG_S)
    assert over.is_over
    assert [name for name, event in killed.items() if event.is_set()] == ["over"]
    assert not any(each.is_over for each in (ended, extended, late))
    for each in (late, extended, over):
        each.end()
    assert sum(thread.name == "deadlines" for thread in threading.enumerate()) == 1


def expire_here() -> None:
    over = threading.Event()
    Deadline(over.set, 0.01)
    raise SystemExit(0 if over.wait(HANG_S) else 1)


def test_a_process_that_was_forked_has_a_thread_of_its_own():
    """Also when the lock was held at that moment, by a thread that the new process does not have."""
    before = Deadline(lambda: None, HANG_S)
    is_held, may_go = threading.Event(), threading.Event()

    def hold() -> None:
        with deadline._WATCH._changed:
            is_held.set()
            may_go.wait(HANG_S)

    holder = threading.Thread(target=hold)
    holder.start()
    assert is_held.wait(HANG_S)
    process = multiprocessing.get_context("fork").Process(target=expire_here)
    process.start()
    may_go.set()
    holder.join(HANG_S)
    process.join(HANG_S)
    assert process.exitcode == 0
    before.end()
