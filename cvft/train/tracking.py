"""Trackers beside a training: a process for each, started before the worker, and given a while after it to send the rest.

What goes wrong in one is a line for the user and nothing else: the training neither waits for it nor hears of it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from tqdm import tqdm

from cvft.imports import python_environment
from cvft.plan.environment import tracker_environment
from cvft.processes import die_with_parent
from cvft.runs import START_HEADLINE, RunFolder

IN_WORKER = "tensorboard"
"""The tracker whose files the worker itself writes."""

END_S = 60.0
"""Seconds that trackers get after a training to send what is left."""


@dataclass(frozen=True)
class _Started:
    name: str
    process: subprocess.Popen[bytes]
    relay: threading.Thread


@contextmanager
def tracking(
    names: Sequence[str], folder: RunFolder, *, shell: Mapping[str, str], end_s: float = END_S
) -> Iterator[None]:
    """Sends a training to trackers while the context lasts.

    Args:
        names: The trackers: see `train.report_to`.
        folder: The run.
        shell: The shell's variables, which say where to send to and hold the keys.
        end_s: Seconds that they get at the end, all together.
    """
    started = [_start(name, folder, shell=shell) for name in names if name != IN_WORKER]
    try:
        yield
    finally:
        for each in started:
            with suppress(OSError):  # it may have ended
                assert each.process.stdin is not None, "it was asked for"
                each.process.stdin.close()
        deadline = time.monotonic() + end_s
        for each in started:
            _end(each, folder, wait_s=max(0.0, deadline - time.monotonic()), end_s=end_s)


def _start(name: str, folder: RunFolder, *, shell: Mapping[str, str]) -> _Started:
    log_file = folder.tracker_log(name)
    log_file.parent.mkdir(parents=True, exist_ok=True)
    with log_file.open("ab") as log:
        log.write(f"{START_HEADLINE}\n".encode())
        log.flush()
        process = subprocess.Popen(
            [sys.executable, "-m", "cvft.train.track_main", str(folder.path), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=python_environment(tracker_environment(folder.train, shell)),
            start_new_session=True,  # Ctrl-C is for the training, whose end it waits for
            preexec_fn=die_with_parent,
        )
    relay = threading.Thread(target=_relay, args=(name, process), daemon=True)
    relay.start()
    return _Started(name, process, relay)


def _relay(name: str, process: subprocess.Popen[bytes]) -> None:
    """Shows what a tracker says, above the progress bar."""
    assert process.stdout is not None, "it was asked for"
    with process.stdout as lines:
        for line in lines:
            _tell(f"{name}: {line.decode(errors='replace').rstrip()}")


def _tell(text: str) -> None:
    tqdm.write(f"note      {text}", file=sys.stderr)


def _end(started: _Started, folder: RunFolder, *, wait_s: float, end_s: float) -> None:
    name, process = started.name, started.process
    try:
        code = process.wait(timeout=wait_s)
    except subprocess.TimeoutExpired:
        _tell(f"{name}: had not taken everything {end_s:g} s after the training; see {folder.tracker_log(name)}")
    else:
        if code < 0:
            _tell(f"{name}: ended by {signal.Signals(-code).name}; see {folder.tracker_log(name)}")
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # what it has started
    process.wait()
    started.relay.join()
