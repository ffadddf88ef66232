"""Replies of judges, kept as they come: one line of JSONL each, on the disk before the next call of the same worker starts.

A reply is found by the key of its case, in whichever run and whenever it was asked for, so that no call that was answered is made
twice. One process at a time writes the file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from cvft.errors import DataError, Problem
from cvft.evaluate.judge.cases import Case, Judge
from cvft.files import drop_torn_line, lock
from cvft.jsonl import read_jsonl, to_line

FOLDER = ".judge"
"""Beside the runs, which share it."""

REPLIES_FILE = "replies.jsonl"


@dataclass(frozen=True)
class Reply:
    """What a judge said.

    Args:
        text: Word for word; half characters, which no file can hold, are written out.
        finish_reason: Why it ended, as the endpoint says; `length` means that it was cut.
        served_model: Which model the endpoint says it was.
        usage: Tokens, as the endpoint counted them.
    """

    text: str
    finish_reason: str | None = None
    served_model: str | None = None
    usage: Mapping[str, int] | None = None


class ReplyStore:
    """Replies that are there, and room for more; see `open_store`."""

    def __init__(self, file: IO[bytes], replies: dict[str, list[Reply]]) -> None:
        self._file = file
        self.replies = replies

    def find(self, key: str) -> list[Reply]:
        """Returns the replies to a case, oldest first."""
        return self.replies.get(key, [])

    def add(self, case: Case, reply: Reply, *, judge: Judge) -> None:
        """Keeps a reply: it is on the disk when this returns."""
        line = {"key": case.key, **judge.settings(case.rubric), **asdict(reply)}
        self._file.write(to_line(line).encode())
        self._file.flush()
        os.fsync(self._file.fileno())
        self.replies.setdefault(case.key, []).append(reply)


@contextmanager
def open_store(root: Path) -> Iterator[ReplyStore]:
    """Opens the replies that the runs of a folder share, made when there are none.

    Args:
        root: The folder that holds the runs.

    Raises:
        LockHeldError: when another process asks a judge for runs of this folder.
        DataError: when the file holds something else.
        OSError: when it cannot be written.
    """
    path = root / FOLDER / REPLIES_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    with lock(path.with_name(".lock"), timeout_s=0, subject=_SUBJECT):
        drop_torn_line(path)
        replies = read_replies(root)
        with open(path, "ab") as file:
            yield ReplyStore(file, replies)


def read_replies(root: Path) -> dict[str, list[Reply]]:
    """Reads the replies that the runs of a folder share, by the keys of their cases; writes nothing.

    Raises:
        DataError: when the file holds something else.
    """
    path = root / FOLDER / REPLIES_FILE
    replies: dict[str, list[Reply]] = {}
    for number, line in enumerate(read_jsonl(path, may_be_torn=True) if path.is_file() else [], start=1):
        if not isinstance(line.get("key"), str) or not isinstance(line.get("text"), str):
            problem = Problem(f"{path}:{number}", "another line", "a reply that cvft judge kept", "move the file away")
            raise DataError(_SUBJECT, [problem])
        reply = Reply(line["text"], line.get("finish_reason"), line.get("served_model"), line.get("usage"))
        replies.setdefault(line["key"], []).append(reply)
    return replies


_SUBJECT = "the replies of judges"
