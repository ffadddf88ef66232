"""The process that sends what a training logs to one tracker: `python -m cvft.train.track_main RUN TRACKER`.

It only reads what the training writes anyway, so nothing that happens here reaches the training: no error, no wait, no random
number. It ends when its standard input does and all is sent. Where it had come to is kept beside the log: a training that goes
on goes on in the same run of the tracker, and what was sent is not sent again.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cvft.files import write_whole
from cvft.jsonl import split_lines
from cvft.processes import die_with_parent
from cvft.recipe import load_recipe
from cvft.runs import RunFolder
from cvft.train.trackers import ANSWER_COLUMNS, TRACKERS, TrackedRun, Tracker
from cvft.training_log import read_record

POLL_S = 1.0
"""Seconds between two looks at what the training has written."""

LOG_FILE = "logging.jsonl"

MOST_SAID = 300
"""Most characters of an error that the user is shown; the log has all of it."""


@dataclass(frozen=True)
class Sent:
    """How far a tracker has come.

    Args:
        id: What the tracker knows the run by.
        step: Highest step that was sent.
        log_bytes: How much of the log was read.
        answers_bytes: How much of the answers was read.
    """

    id: str
    step: int = 0
    log_bytes: int = 0
    answers_bytes: int = 0


def main(argv: list[str]) -> None:
    """Sends until the training is over.

    Args:
        argv: The run's folder, and the tracker's name.
    """
    folder, name = RunFolder(Path(argv[0])), argv[1]
    die_with_parent()
    tell = _keep_output_apart()
    over = threading.Event()
    threading.Thread(target=_wait_for_end, args=(over,), daemon=True).start()
    sent = _read_sent(folder, name)
    try:
        follow(
            folder, TRACKERS[name](), sent=sent, keep=lambda now: _write_sent(folder, name, now), over=over, tell=tell
        )
    except (Exception, SystemExit) as error:  # whatever a package may raise
        said = " ".join(str(error).split()) or "no reason given"
        said = said if len(said) <= MOST_SAID else f"{said[:MOST_SAID]}..."
        tell(f"{type(error).__name__}: {said}; nothing more is sent ({folder.tracker_log(name)})")
        raise


def follow(
    folder: RunFolder,
    tracker: Tracker,
    *,
    sent: Sent,
    keep: Callable[[Sent], object],
    over: threading.Event,
    tell: Callable[[str], object],
) -> None:
    """Sends what a training writes, as it comes.

    Args:
        folder: The run.
        tracker: Where to send it.
        sent: How far it had come.
        keep: Called with how far it has come.
        over: Set when the training has ended.
        tell: Called with what the user is to read.
    """
    recipe = load_recipe(folder.recipe_file).recipe
    run = TrackedRun(recipe.name or folder.path.name, sent.id, dict(_flatten(recipe.to_dict())))
    if address := tracker.start(run):
        tell(address)
    while True:
        is_last = over.is_set()
        now = send_new(folder, tracker, sent)
        if now != sent:
            keep(now)
        sent = now
        if is_last:
            break
        over.wait(POLL_S)
    tracker.finish()


def send_new(folder: RunFolder, tracker: Tracker, sent: Sent) -> Sent:
    """Sends what has come since, and returns how far that is; steps that were sent by an earlier start are passed over."""
    lines, log_bytes = _new_objects(folder.train / LOG_FILE, sent.log_bytes)
    step_sent = sent.step
    for line in lines:
        step, numbers = read_record(line)
        if step is not None and step >= step_sent:
            tracker.log({_name(key): value for key, value in numbers.items()}, step=step)
            step_sent = step
    lines, answers_bytes = _new_objects(folder.answers_file, sent.answers_bytes)
    for step, group in itertools.groupby(lines, key=lambda line: int(line["step"])):
        if step >= sent.step:
            tracker.show([[line[column] for column in ANSWER_COLUMNS] for line in group], step=step)
    return replace(sent, step=step_sent, log_bytes=log_bytes, answers_bytes=answers_bytes)


def _name(key: str) -> str:
    """Calls a number as TensorBoard's files do, in letters that every tracker takes: `train_speed(s/it)` has others."""
    key = re.sub(r"\((.*?)\)", r"_\1", key).replace("/", "_per_")
    return f"eval/{key.removeprefix('eval_')}" if key.startswith("eval_") else f"train/{key}"


def _new_objects(path: Path, start: int) -> tuple[list[dict[str, Any]], int]:
    """Reads the whole lines behind a place, and returns the next place; what is no JSON object is passed over."""
    if not path.is_file():
        return [], start
    with path.open("rb") as file:
        file.seek(start)
        new = file.read()
    whole = new[: new.rfind(b"\n") + 1]
    found = []
    for _, line in split_lines(whole):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        found += [value] if isinstance(value, dict) else []
    return found, start + len(whole)


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _read_sent(folder: RunFolder, name: str) -> Sent:
    try:
        return Sent(**json.loads(_sent_file(folder, name).read_text(encoding="utf-8")))
    except (
        OSError,
        ValueError,
        TypeError,
    ):  # a first start, or a file that says nothing: all is sent again under a new id
        return Sent(uuid.uuid4().hex[:12])


def _write_sent(folder: RunFolder, name: str, sent: Sent) -> None:
    write_whole(_sent_file(folder, name), json.dumps(asdict(sent)) + "\n")


def _sent_file(folder: RunFolder, name: str) -> Path:
    return folder.train / f"sent-{name}.json"


def _keep_output_apart() -> Callable[[str], None]:
    """Lets packages print into the log, and returns what writes a line for the user."""
    user = os.dup(1)
    os.dup2(2, 1)

    def tell(line: str) -> None:
        os.write(user, f"{line}\n".encode(errors="replace"))

    return tell


def _wait_for_end(over: threading.Event) -> None:
    while os.read(0, 1):  # not by way of sys.stdin, whose lock this thread would hold when the interpreter ends
        pass
    over.set()


if __name__ == "__main__":
    main(sys.argv[1:])
