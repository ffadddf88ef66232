"""Locks that die with their process: one holder at a time, on one machine or on several that share the disk."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cvft.errors import FeatureError, Problem, quote


@contextmanager
def hold_lock(path: Path, *, timeout_s: float | None, poll_s: float = 0.05) -> Iterator[None]:
    """Holds a lock that only one process has at a time, on this machine or on others that share the disk.

    The lock dies with its process, or with the last child that it forked while holding it. The file stays; removing it would
    let two processes hold locks on two files of one name.

    Args:
        path: The lock's file, made when absent. It names the holder, for people.
        timeout_s: Seconds to wait for the others; None waits as long as it takes.
        poll_s: Seconds between two tries.

    Raises:
        FeatureError: Somebody else still holds it when the time is up.
        OSError: The file cannot be made.
    """
    deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        while not _try_lock(descriptor):
            if deadline_s is not None and time.monotonic() >= deadline_s:
                holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "another process"
                need = f"nobody to hold it within {timeout_s:g} s"
                problem = Problem(str(path), f"held by {quote(holder)}", need, "wait until that process is done")
                raise FeatureError("the lock of a feature store", [problem])
            time.sleep(poll_s)
        with suppress(OSError):  # a courtesy to who waits; a full disk must not cost the lock
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {os.uname().nodename}\n".encode(), 0)
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # closing alone would leave it with children that were forked meanwhile
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
