"""Asking a training to save a checkpoint and stop: a file for the launcher and for schedulers, signals for a worker.

Launcher: Ctrl-C, SIGTERM or SIGHUP -> `RUN/train/stop`. Worker: that file, or its own SIGTERM -> all ranks agree after a step.
"""

from __future__ import annotations

import os
import signal
import threading

STOP_FILE = "stop"
"""Under `train/`: while it exists, the training saves a checkpoint after the current step and stops."""

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What a terminal, a scheduler and a lost connection send."""

LAST_SECONDS = 20.0
"""What a rank gets after SIGTERM when there are others. torch's launcher sends it when another rank has died, and a rank that
waits for a dead one in a collective would otherwise sit there until it is killed."""


def heeded_signals() -> list[signal.Signals]:
    """Returns the stop signals that this process does not ignore: `nohup` and shell scripts have some ignored, and mean it."""
    return [number for number in STOP_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]


class StopSignals:
    """Notes signals that ask this worker to stop, even while the main thread is inside a collective.

    Args:
        num_ranks: Number of ranks of the training.
    """

    def __init__(self, *, num_ranks: int) -> None:
        self._asked = threading.Event()
        self._num_ranks = num_ranks
        self._read_end, write_end = os.pipe()
        os.set_blocking(write_end, False)
        # the number of a signal arrives in the pipe at once; a Python handler would wait for the main thread
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        for number in heeded_signals():
            signal.signal(number, lambda *_: None)
        threading.Thread(target=self._listen, daemon=True).start()

    @property
    def asked(self) -> bool:
        """Whether a signal has arrived."""
        return self._asked.is_set()

    def _listen(self) -> None:
        while True:
            (number,) = os.read(self._read_end, 1)
            if number not in STOP_SIGNALS:
                continue
            self._asked.set()
            if self._num_ranks > 1:
                last = threading.Timer(LAST_SECONDS, os._exit, (128 + number,))
                last.daemon = True
                last.start()


def forget_stop_signals(*_: object) -> None:
    """Gives signals their usual meaning back, in a data loader's process that was forked from a worker."""
    signal.set_wakeup_fd(-1)
    for number in heeded_signals():
        signal.signal(number, signal.SIG_DFL)
