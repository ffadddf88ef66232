"""Starts the worker of a plan, shows its progress, and tells why it ended.

The worker's own output goes to RUN/train/worker.log; the terminal shows one progress bar and, after a failure, the end of
that log. A launcher that is interrupted ends the worker with it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from cvft.engine.plan import Plan
from cvft.errors import Problem, RunError, quote

LOG_FILE = "worker.log"
NUM_LOG_LINES_SHOWN = 25
POLL_S = 0.2
GRACE_S = 20.0
"""Seconds that a worker gets to end after it was told to, before it is killed."""


def launch(plan: Plan, *, progress_file: Path) -> None:
    """Runs a plan's worker to its end.

    Args:
        plan: The plan; its files are in place.
        progress_file: Where the worker reports its steps.

    Raises:
        RunError: when the shell sets a variable otherwise than the plan, or when the worker fails.
    """
    log_file = Path(plan.swift_arguments["output_dir"]) / LOG_FILE
    log_file.parent.mkdir(parents=True, exist_ok=True)
    progress_file.unlink(missing_ok=True)
    environment = merge_environment(plan.environment, os.environ)
    with log_file.open("ab") as log:
        process = subprocess.Popen(
            plan.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # so that all ranks and their decoders can be ended together
        )
        with _ended_with_us(process):
            _show_progress(process, plan=plan, progress_file=progress_file)
            code = process.wait()
    if code != 0:
        raise RunError("the training", [Problem(str(log_file), f"exit code {code}", "0", _tail(log_file))])


def merge_environment(planned: Mapping[str, str], shell: Mapping[str, str]) -> dict[str, str]:
    """Adds a plan's variables to the shell's.

    Args:
        planned: The plan's variables.
        shell: The shell's.

    Returns:
        Both together.

    Raises:
        RunError: when the shell sets one of them to something else: it would not have the effect that it seems to have.
    """
    problems = [
        Problem(f"environment variable {name}", quote(shell[name]), quote(value), _environment_hint(name))
        for name, value in planned.items()
        if shell.get(name, value) != value
    ]
    if problems:
        raise RunError("the shell", problems)
    return {**shell, **planned}


def _environment_hint(name: str) -> str:
    setting = {"OMP_NUM_THREADS": " or set parallel.num_threads"}.get(name, "")
    return f"unset {name}{setting}"


@contextmanager
def _ended_with_us(process: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _show_progress(process: subprocess.Popen[bytes], *, plan: Plan, progress_file: Path) -> None:
    num_bytes_read = 0
    shown: dict[str, str] = {}
    with tqdm(total=plan.num_steps, desc="training", unit="step", file=sys.stderr, dynamic_ncols=True) as bar:
        bar.set_postfix_str("loading the model")
        while True:
            ended = process.poll() is not None
            for line in _read_new_lines(progress_file, start=num_bytes_read):
                num_bytes_read += len(line)
                report = json.loads(line)
                if not shown and not bar.n:
                    bar.initial = report["step"]  # a resumed training does not count the steps it did not do
                bar.update(report["step"] - bar.n)
                shown |= {key: f"{report[key]:.4f}" for key in ("loss", "eval_loss") if key in report}
                bar.set_postfix(shown, refresh=False)
            if ended:
                return
            time.sleep(POLL_S)


def _read_new_lines(path: Path, *, start: int) -> list[bytes]:
    """Reads the whole lines after a place in a file that grows; a line still being written waits for the next call."""
    if not path.is_file():
        return []
    with path.open("rb") as file:
        file.seek(start)
        return [line for line in file if line.endswith(b"\n")]


def _tail(log_file: Path) -> str:
    lines = log_file.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(["the log ends with", *lines[-NUM_LOG_LINES_SHOWN:]])
