"""The first Ctrl-C ends every stage of a command within seconds, wherever it arrives, and the next start goes on from there."""

import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cvft.cli.interrupts import GRACE_S
from cvft.recipe import load_recipe
from cvft.runs import RunFolder
from tests.project import HANG_S, cvft_ok, make_project

SLACK = 10
"""How much longer a busy machine may take than GRACE_S."""

AROUND = """
import sys, threading, time
from cvft.cli.interrupts import EXIT_INTERRUPTED, Interrupts

with Interrupts() as interrupts:
    try:
        print("ready", flush=True)
{body}
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
"""

BODIES = {
    "a destructor": """
class Slow:
    def __del__(self):
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            pass
while True:
    Slow()
""",
    "a callback from C": """
import ctypes
numbers = (ctypes.c_int * 2)(2, 1)
def compare(first, second):
    time.sleep(0.2)
    return 0
kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
while True:
    ctypes.CDLL(None).qsort(numbers, 2, ctypes.sizeof(ctypes.c_int), kind(compare))
""",
    "a library that catches everything": """
while True:
    try:
        time.sleep(0.1)
    except BaseException:
        pass
""",
    "a library that makes another error of it": """
try:
    time.sleep(1000)
except BaseException:
    raise RuntimeError("no idea what this was") from None
""",
    "a long call into C": """
import hashlib
hashlib.pbkdf2_hmac("sha256", b"password", b"salt", 10**9)
""",
    "a thread that is waited for": """
threading.Thread(target=time.sleep, args=(1000,)).start()
time.sleep(1000)
""",
}


def heed_ctrl_c() -> None:
    """A shell script that starts these tests in the background has SIGINT ignored, and what is ignored is inherited."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_the_first_one_ends_it_wherever_it_arrives():
    processes = {}
    for where, body in BODIES.items():
        indented = "\n".join(f"        {line}" for line in body.splitlines())
        command = [sys.executable, "-c", AROUND.format(body=indented)]
        processes[where] = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed_ctrl_c
        )
    for process in processes.values():
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    time.sleep(0.3)  # let them arrive where they stay
    for process in processes.values():
        process.send_signal(signal.SIGINT)
    started = time.monotonic()
    for where, process in processes.items():
        _, said = process.communicate(timeout=HANG_S)
        assert time.monotonic() - started < SLACK * GRACE_S
        if where == "a library that makes another error of it":  # `main` turns it into the exit code
            assert process.returncode == 1
            continue
        assert process.returncode == 130, (where, said)
        assert "Traceback" not in said, (where, said)


def test_one_that_is_ignored_is_ignored():
    code = AROUND.format(body="        time.sleep(1)\n        print('done')")
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN) and None,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=HANG_S)[0] == "done\n"
    assert process.returncode == 0


STAGES = (
    ("clips", 130),
    ("loading the model", 75),
    ("training:", 75),
    ("answering (base)", 130),
    ("merging", 130),
    ("verifying", 130),
)
"""What the terminal shows when each stage has begun, and the exit code of one that is interrupted."""


@pytest.mark.dist
def test_every_stage_of_a_run_ends_on_the_first_one_and_the_next_start_goes_on(tmp_path):
    recipe = make_project(tmp_path, train={"max_steps": 6, "save_steps": 6, "num_workers": 1})
    for stage, code in STAGES:
        ended, said = interrupt(recipe, stage)
        assert ended == code, (stage, said)
        assert "Traceback" not in said, (stage, said)
        assert "Exception ignored" not in said, (stage, said)
    assert "val exact match" in cvft_ok("run", recipe).stdout


@pytest.mark.dist
def test_one_that_comes_with_the_last_step_ends_the_run_too(tmp_path):
    """What follows the training can take hours, and the terminal has just said that the signal was heard."""
    recipe = make_project(tmp_path, train={"max_steps": 1, "save_steps": 1, "num_workers": 1})
    folder = RunFolder(load_recipe(recipe).recipe.run_dir)
    process = subprocess.Popen(
        [sys.executable, "-m", "cvft", "run", str(recipe)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_ctrl_c,
    )
    progress = folder.progress_file
    while not (progress.is_file() and '"step": 1' in progress.read_text(encoding="utf-8")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=HANG_S)
    assert process.returncode == 75, said
    assert said.rstrip().endswith("checkpoint-1 is saved; the same command goes on from it")
    assert folder.adapter.is_dir()
    assert not folder.merged.exists()
    assert "val exact match" in cvft_ok("run", recipe).stdout


def interrupt(recipe: Path, stage: str) -> tuple[int, str]:
    """Runs until a stage has begun and presses Ctrl-C; returns the exit code and what was said from there on."""
    command = [sys.executable, "-m", "cvft", "run", str(recipe)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, preexec_fn=heed_ctrl_c)
    assert process.stderr is not None
    said = b""
    while stage.encode() not in said or (stage == "training:" and b"loss=" not in said):
        piece = os.read(process.stderr.fileno(), 4096)
        assert piece, said.decode()[-3000:]
        said += piece
    process.send_signal(signal.SIGINT)
    started = time.monotonic()
    _, rest = process.communicate(timeout=HANG_S)
    assert time.monotonic() - started < SLACK * GRACE_S, stage
    return process.returncode, rest.decode()


UNHEARD = """
import readline, signal, threading, time
from cvft.cli.interrupts import raised_only

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's job in the background ignores it

def elsewhere():
    time.sleep(1)
    signal.pthread_kill(threading.get_ident(), signal.SIGINT)

with raised_only():
    for prompt in ("once> ", "twice> "):
        threading.Thread(target=elsewhere, daemon=True).start()
        try:
            input(prompt)
        except KeyboardInterrupt:
            print("heard", flush=True)
"""


def test_ctrl_c_is_heard_where_it_does_not_end_a_wait_for_keys():
    """As one that comes between the prompt and the wait: Python knows of it, but the main thread goes on waiting in C."""
    master, screen = pty.openpty()
    try:
        process = subprocess.Popen([sys.executable, "-c", UNHEARD], stdin=screen, stdout=screen, stderr=screen)
        try:
            assert process.wait(HANG_S) == 0
        finally:
            process.kill()
            process.wait()
        said = os.read(master, 4096).decode()
    finally:
        os.close(screen)
        os.close(master)
    assert re.sub(r"\s+|\x1b\S*", " ", said).split() == ["once>", "heard", "twice>", "heard"]
