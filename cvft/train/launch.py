"""Starts the worker of a plan, shows its progress, stops it when asked to, and says why it ended.

The worker's own output goes to RUN/train/worker.log, that of each rank to RUN/train/logs when there are several; the
terminal shows one progress bar and, after a failure, the end of the log that says most. A launcher that dies takes the
worker with it: whatever happens, no process is left that writes into the run folder.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tqdm import tqdm

from cvft.errors import Problem, RunError
from cvft.imports import python_environment
from cvft.processes import LAUNCHER_VARIABLE, NUM_LOG_LINES_SHOWN, describe_end, die_with_parent, explain_end
from cvft.runs import ERROR_HEADLINE, START_HEADLINE, RunFolder
from cvft.train.stop import STOP_FILE, heeded_signals

POLL_S = 0.2

ROOT_CAUSE = re.compile(r"Root Cause.*?rank\s*: (\d+) .*?exitcode\s*: (-?\d+)", re.DOTALL)
"""What torch.distributed.run prints about the rank that failed first."""


def launch(
    command: Sequence[str],
    *,
    variables: Mapping[str, str],
    folder: RunFolder,
    node_rank: int = 0,
    num_steps: int | None = None,
    may_end_early: bool = False,
) -> None:
    """Runs a plan's worker to its end.

    Ctrl-C, SIGTERM or SIGHUP asks it to save a checkpoint and stop; a second one ends it at once.

    Args:
        command: How the worker is started.
        variables: Its environment, as `merge_environment` returns it; where it imports from is added.
        folder: The run; the plan's files are in place.
        node_rank: This machine's number; the first one shows the progress.
        num_steps: Steps of the whole training, for the progress bar.
        may_end_early: Whether a worker that is asked to stop before it has begun to train is ended at once.

    Raises:
        RunError: when the worker fails.
        KeyboardInterrupt: when a second signal came.
    """
    log_file = folder.worker_log(node_rank)
    log_file.parent.mkdir(parents=True, exist_ok=True)
    if node_rank == 0:
        _set_progress_aside(folder)
        (folder.train / STOP_FILE).unlink(missing_ok=True)
    with log_file.open("ab") as log:
        log.write(f"{START_HEADLINE}\n".encode())
        log.flush()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=python_environment({**variables, LAUNCHER_VARIABLE: str(os.getpid())}),
            start_new_session=True,  # so that all ranks and their decoders can be ended together
            preexec_fn=die_with_parent,
        )
        with _killed_with_us(process), _asked_by_signals(folder.train):
            _show_progress(process, num_steps=num_steps, folder=folder, may_end_early=may_end_early)
            code = process.wait()
    if code != 0:
        raise RunError("the training", [_why_it_failed(code, log_file=log_file, folder=folder)])


def _set_progress_aside(folder: RunFolder) -> None:
    """Puts the steps of an earlier start behind those before: this start's own are what the terminal shows."""
    if folder.progress_file.is_file():
        with folder.earlier_progress_file.open("ab") as earlier:
            earlier.writelines(read_new_lines(folder.progress_file, start=0))
        folder.progress_file.unlink()


@contextmanager
def _killed_with_us(process: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
    finally:
        # at once and for good: nothing under a final name can be half-written
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def _asked_by_signals(train_folder: Path) -> Iterator[None]:
    """Turns the first signal into a request to stop, and the second into KeyboardInterrupt."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    num_signals = 0

    def ask(number: int, frame: object) -> None:
        nonlocal num_signals
        num_signals += 1
        if num_signals > 1:
            raise KeyboardInterrupt
        (train_folder / STOP_FILE).touch()
        name = signal.Signals(number).name
        tqdm.write(f"{name}: saving a checkpoint after this step; once more to stop at once", file=sys.stderr)

    # the watch over Ctrl-C in other stages would end the process
    wakeup = signal.set_wakeup_fd(-1)
    before = {number: signal.signal(number, ask) for number in heeded_signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup)


def _show_progress(
    process: subprocess.Popen[bytes], *, num_steps: int | None, folder: RunFolder, may_end_early: bool
) -> None:
    if num_steps is None:
        process.wait()
        return
    num_bytes_read = 0
    is_loading = True
    shown: dict[str, str] = {}
    with tqdm(total=num_steps, desc="training", unit="step", file=sys.stderr, dynamic_ncols=True) as bar:
        bar.set_postfix_str("loading the model")
        while True:
            ended = process.poll() is not None
            for line in read_new_lines(folder.progress_file, start=num_bytes_read):
                num_bytes_read += len(line)
                report = json.loads(line)
                done, total = report.get("encoded", report.get("decoded")), report.get("num_clips")
                is_loading = total is not None and done == total
                if total is not None:
                    doing = "encoding" if "encoded" in report else "decoding"
                    bar.set_postfix_str(f"{doing} clips, {done} of {total}")
                    continue
                if not shown and not bar.n:
                    bar.initial = report["step"]  # a resumed training does not count the steps it did not do
                bar.update(report["step"] - bar.n)
                shown |= {key: f"{report[key]:.4f}" for key in ("loss", "eval_loss") if key in report}
                bar.set_postfix(shown, refresh=False)
            if ended:
                return
            if is_loading and may_end_early and (folder.train / STOP_FILE).exists():
                # it looks for the file after a step, which may be minutes away, and has nothing yet to save
                os.killpg(process.pid, signal.SIGKILL)
            time.sleep(POLL_S)


def read_new_lines(path: Path, *, start: int) -> list[bytes]:
    """Reads the whole lines after a place in a file that grows; a line still being written waits for the next call."""
    if not path.is_file():
        return []
    with path.open("rb") as file:
        file.seek(start)
        raw = file.read()  # at once: read line by line, a line that grows meanwhile comes in two pieces
    return raw[: raw.rfind(b"\n") + 1].splitlines(keepends=True)


def _why_it_failed(code: int, *, log_file: Path, folder: RunFolder) -> Problem:
    """Finds the rank that failed first, and what it said."""
    said = _last_start(log_file)
    where = "the worker"
    found = ROOT_CAUSE.search(said)
    if found:
        rank, code = int(found[1]), int(found[2])
        where, log_file = f"rank {rank}", folder.rank_log(rank)
        said = _last_start(log_file) if log_file.is_file() else said
    error = said.rpartition(ERROR_HEADLINE)[2] if ERROR_HEADLINE in said else ""
    lines = error.strip().splitlines() or said.splitlines()[-NUM_LOG_LINES_SHOWN:]
    return Problem(f"{where} ({log_file})", describe_end(code), "exit code 0", explain_end(code, lines))


def _last_start(log_file: Path) -> str:
    return log_file.read_text(encoding="utf-8", errors="replace").rpartition(START_HEADLINE)[2]
