"""Processes of ours that work for another one: they end with it, and how they ended is said in one way.

Decode processes end by themselves when their pipe closes; what is here is for those that no pipe keeps waiting.
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Sequence

import psutil

LAUNCHER_VARIABLE = "CVFT_LAUNCHER_PID"
"""Environment variable by which a worker, or a rank, knows whose descendant it is."""

NUM_LOG_LINES_SHOWN = 25
"""Last lines of what a process said that an error shows."""

PR_SET_PDEATHSIG = 1
"""Source: linux/prctl.h."""

_LIBC = ctypes.CDLL(None)
"""Opened here: between fork and exec as little as possible may happen."""


def die_with_parent() -> None:
    """Asks Linux to kill this process when the one that started it ends, however that comes about."""
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def end_without_launcher() -> None:
    """Ends this process if its launcher has gone before `die_with_parent` was called, when nothing could tell it so."""
    launcher = os.environ.get(LAUNCHER_VARIABLE)
    if launcher is not None and int(launcher) not in {process.pid for process in psutil.Process().parents()}:
        os._exit(128 + signal.SIGKILL)


def describe_end(code: int) -> str:
    """Says how a process ended.

    Args:
        code: Its exit code; that of a process which a signal ended is the signal's number, negative.
    """
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def explain_end(code: int, said: Sequence[str]) -> str:
    """Returns the hint of an error about a process that failed: what that end mostly means, and what it said last.

    Args:
        code: As of `describe_end`.
        said: The lines that say most.
    """
    about_memory = ["the system kills a process when memory runs out"] if code == -signal.SIGKILL else []
    return "\n".join([*about_memory, "it said", *said])
