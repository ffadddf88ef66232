"""Ends processes whose time is over: one thread watches over all of them.

A thread, because pipes cannot be polled on every system; one, because starting one for each clip takes longer than all else that
the parent of a decode process does for it.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable


class Deadline:
    """Kills a process when its time is over, unless that was ended before.

    Args:
        kill: Kills it.
        limit_s: The time that it has from now on, in seconds.
    """

    def __init__(self, kill: Callable[[], None], limit_s: float) -> None:
        self._kill = kill
        self._begin_s = time.monotonic()
        self.limit_s = limit_s
        self.is_over = False
        _WATCH.add(self)

    @property
    def ends_s(self) -> float:
        """When it is over, as `time.monotonic` counts."""
        return self._begin_s + self.limit_s

    def extend(self, limit_s: float) -> None:
        """Sets the whole time that is allowed, counted from the beginning; never a shorter one."""
        self.limit_s = max(self.limit_s, limit_s)

    def end(self) -> None:
        """Lets the process live; `is_over` says whether it was killed before."""
        _WATCH.remove(self)

    def expire(self) -> None:
        """Kills the process."""
        self.is_over = True
        self._kill()


class _Watch:
    """The thread, which sleeps until the first deadline that it knows of."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begins anew: after a fork there is no thread, and whoever held the lock is not there to release it."""
        self._changed = threading.Condition()
        self._running: set[Deadline] = set()
        self._wakes_s = math.inf
        self._thread: threading.Thread | None = None

    def add(self, deadline: Deadline) -> None:
        with self._changed:
            self._running.add(deadline)
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="deadlines", daemon=True)
                self._thread.start()
            elif deadline.ends_s < self._wakes_s:
                self._changed.notify()

    def remove(self, deadline: Deadline) -> None:
        with self._changed:
            self._running.discard(deadline)

    def _watch(self) -> None:
        with self._changed:
            while True:
                now_s = time.monotonic()
                for deadline in [each for each in self._running if each.ends_s <= now_s]:
                    self._running.discard(deadline)
                    deadline.expire()
                self._wakes_s = min((each.ends_s for each in self._running), default=math.inf)
                # with none, whoever adds the next one wakes it
                self._changed.wait(
                    None if self._wakes_s == math.inf else min(self._wakes_s - now_s, threading.TIMEOUT_MAX)
                )


_WATCH = _Watch()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_WATCH.forget)
