"""Files and folders that appear whole, whenever we are killed; locks between processes; the hash that identifies a clip.

write_whole      a file: written aside, synced and renamed
publish_folder   a folder that was written aside: synced, then given its final name in place of the one that had it
recover_folder   what a publish that was killed has left: finished, or taken back
drop_torn_line   half a line that a writer who was killed has left
why_unwritable   what keeps us from writing under a folder, found without leaving a file
lock             one process at a time; it ends with its process
"""

from __future__ import annotations

import ctypes
import errno
import glob
import hashlib
import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from cvft.errors import CvftError, Problem, quote

if sys.platform != "win32":
    import fcntl

_TEMPORARY = re.compile(r"\..+\.[0-9]+\.tmp")
"""Name of a file that is being written."""

_REPLACED = "replaced"
"""In the name of a whole folder that was renamed away and waits for the new one to take its place."""

_REMOVED = "removed"
"""In the name of a folder that is being removed; nothing in it counts."""

_RENAME_EXCHANGE = 2
"""Flag of Linux's renameat2: both names change places in one step. Source: linux/fs.h."""

_AT_FDCWD = -100
"""Stands for the working folder in Linux's *at calls. Source: linux/fcntl.h."""

_CANNOT_EXCHANGE = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)
"""What a kernel or a file system answers that does not know the exchange; some network disks are among them."""


NUM_PROBE_BYTES = 1 << 20
"""Written to find out whether a folder can be written."""


class LockHeldError(CvftError):
    """Another process holds a lock, and the time to wait for it is up."""


def write_whole(path: Path, content: str | bytes | Iterable[bytes]) -> None:
    """Writes a file so that a reader sees either the old one or the whole new one, whenever we are killed.

    Args:
        path: The file to write. Its folder is made when it is absent.
        content: The whole content, or its parts in turn; text is written as UTF-8, its line ends as they are.

    Raises:
        OSError: The folder cannot be written, or the disk is full. The old file, if any, is left as it was.
    """
    content = content.encode() if isinstance(content, str) else content
    parts = [content] if isinstance(content, bytes) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path)
    aside = _name_aside(path)
    try:
        with _open_aside(aside) as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
            os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    sync_folder(path.parent)


def check_output(path: Path, *, subject: str, where: str, may_exist: bool = False) -> None:
    """Refuses a file that could not be written later on, before work is done for it; leaves nothing behind.

    Args:
        path: The file that is going to be written, by `write_whole` or piece by piece.
        subject: What it is part of, for the headline of the error.
        where: How the user named it.
        may_exist: Whether it may be there already, and be replaced.

    Raises:
        CvftError: when it is a folder, when it exists and may not, or when its folder cannot be written.
    """
    problem = None
    need = "a new file in a folder that can be written"
    try:
        if path.is_dir():
            problem = Problem(where, f"the folder `{path}`", need, "name a file in it")
        elif os.path.lexists(path) and not may_exist:
            problem = Problem(where, f"`{path}`, which exists", need, "give another name, or move that file away")
        elif os.path.lexists(path) and not path.is_file():
            problem = Problem(where, f"`{path}`, which is no file", need)
        else:
            folder = next(each for each in path.absolute().parents if os.path.lexists(each))
            # under the longest name that will be written; should we be killed here, the next check removes it
            _remove_abandoned(folder / path.name)
            probe = _name_aside(folder / path.name)
            with _open_aside(probe):
                probe.unlink()
    except OSError as error:
        problem = Problem(where, f"`{path}`: {error.strerror}", need)
    if problem is not None:
        raise CvftError(subject, [problem])


def is_temporary(path: Path) -> bool:
    """Tells whether a file is what a `write_whole` that was killed has left; the next one of the same file removes it."""
    return _TEMPORARY.fullmatch(path.name) is not None


def _name_aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def _open_aside(aside: Path) -> BinaryIO:
    """Opens a file to write, under a lock by which others know that its writer lives."""
    while True:
        file = open(aside, "wb")  # noqa: SIM115
        _try_lock(file)
        if os.fstat(file.fileno()).st_nlink:
            return file
        file.close()  # somebody took it for abandoned before it was locked


def _remove_abandoned(path: Path) -> None:
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        if is_temporary(left):
            with (
                suppress(OSError),
                open(left, "rb") as file,
            ):  # the courtesy of one write to another; it has its own to do
                if _try_lock(file):
                    left.unlink()


def _try_lock(file: BinaryIO) -> bool:
    """Locks an open file until it is closed; returns False where another process holds it, or where there are no locks."""
    if sys.platform == "win32":
        return False
    with suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def publish_folder(aside: Path, final: Path) -> None:
    """Gives a folder that was written aside its final name, in place of the folder that had it.

    Whenever we are killed, the old folder or the new one lies whole under the final name. Where the system cannot
    exchange two names in one step there is one moment at which neither does: `recover_folder` brings the old one back,
    and so does the next `publish_folder`. The old folder is removed when the new one is in its place, not before.

    Args:
        aside: The new folder, on the same disk. After a kill the old one may lie here: it is to be removed before
            something is written here again.
        final: Its name. One process at a time publishes under it.

    Raises:
        OSError: The folder cannot be read, synced or renamed; then what lay under the final name still does.
    """
    recover_folder(final)
    _sync_tree(aside)
    old: Path | None = None
    if os.path.lexists(final):
        if _exchange(aside, final):
            old = aside
        else:
            old = _name_beside(final, _REPLACED)
            os.rename(final, old)
            try:
                os.rename(aside, final)
            except OSError:
                os.rename(old, final)
                raise
    else:
        os.rename(aside, final)
    sync_folder(final.parent)
    if aside.parent != final.parent:
        sync_folder(aside.parent)
    if old is not None:
        _remove(old, final)


def recover_folder(final: Path) -> None:
    """Finishes a `publish_folder` that was killed, or takes it back, and removes what it has left.

    Args:
        final: The final name; nothing need lie there. No other process may publish under it meanwhile.

    Raises:
        OSError: The folder cannot be written.
    """
    for replaced in _find_beside(final, _REPLACED):
        if os.path.lexists(final):
            _remove(replaced, final)
        else:
            os.rename(replaced, final)
            sync_folder(final.parent)
    for removed in _find_beside(final, _REMOVED):
        _remove_tree(removed)


def drop_torn_line(path: Path) -> None:
    """Cuts a file of lines off behind the last whole one: who wrote the rest was killed, or the disk was full.

    Args:
        path: The file; nothing need lie there. Nobody writes to it.

    Raises:
        OSError: The file cannot be written.
    """
    if not path.is_file():
        return
    with open(path, "r+b") as file:
        file.truncate(file.read().rfind(b"\n") + 1)


def why_unwritable(folder: Path) -> str:
    """Says what keeps us from writing under a folder, which need not be there yet, or returns an empty text.

    Writes a file that has no name and is gone when it is closed, so that a full disk and a quota are found too.
    """
    for place in (folder, *folder.parents):
        try:
            mode = place.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            if place.is_symlink():
                return f"{quote(place)} is a link to a place that is not there"
            continue
        except OSError as error:
            return f"{_reason(error)} at {quote(place)}"
        if not stat.S_ISDIR(mode):
            return f"{quote(place)} is a file"
        try:
            with tempfile.TemporaryFile(dir=place) as file:
                file.write(bytes(NUM_PROBE_BYTES))
        except OSError as error:
            return f"{_reason(error)} at {quote(place)}"
        return ""
    return ""


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def sync_folder(path: Path) -> None:
    """Sees that the names in a folder are on the disk: a rename lives in the folder, not in the file.

    Raises:
        OSError: The folder is not there, or the disk refuses.
    """
    if os.name == "posix":  # other systems cannot open a folder
        _sync(path)


def hash_file(path: Path) -> str:
    """Returns the sha256 of a file's bytes as 64 hex digits, reading it in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def lock(path: Path, *, timeout_s: float | None, subject: str, poll_s: float = 0.05) -> Iterator[None]:
    """Holds a lock that only one process has at a time, on this machine or on others that share the disk.

    The lock ends with its process; children that it forks do not have it. The file stays: removing it would let two
    processes hold locks on two files of one name.

    Args:
        path: The lock's file, made when absent, with its folder. It names the holder, for people.
        timeout_s: Seconds to wait for the others; None waits as long as it takes.
        subject: What is locked, for the headline of the error.
        poll_s: Seconds between two tries.

    Raises:
        LockHeldError: Somebody else still holds it when the time is up.
        OSError: The file cannot be made, or the disk knows no locks.
    """
    # without a real lock there is none: a soft one would outlive a process that is killed
    held = FileLock(path, poll_interval=poll_s, fallback_to_soft=False, on_acquired=_name_holder)
    with ExitStack() as stack:
        try:
            stack.enter_context(held.acquire(timeout=-1 if timeout_s is None else timeout_s))
        except Timeout:
            holder = _read_holder(path) or "another process"
            need = f"nobody to hold it within {timeout_s:g} s"
            problem = Problem(str(path), f"held by {quote(holder)}", need, "wait until that process is done")
            raise LockHeldError(subject, [problem]) from None
        yield


def _name_holder(descriptor: int) -> None:
    with suppress(OSError):  # a courtesy to those who wait; a full disk must not cost the lock
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {os.uname().nodename}\n".encode(), 0)


def _read_holder(path: Path) -> str:
    with suppress(OSError), open(path, "rb") as file:
        return file.read(200).decode(errors="replace").strip()
    return ""


def _exchange(first: Path, second: Path) -> bool:
    """Lets two names change places in one step; returns False where system or disk cannot.

    Raises:
        OSError: They could, but it failed.
    """
    rename = _find_exchange()
    if rename is None:
        return False
    if rename(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _CANNOT_EXCHANGE:
        return False
    raise OSError(code, os.strerror(code), str(first), None, str(second))


@cache
def _find_exchange() -> Any:
    """Returns the system library's `renameat2`, or None where there is none."""
    if not sys.platform.startswith("linux"):
        return None
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is not None:
        function.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    return function


def _name_beside(final: Path, kind: str) -> Path:
    return final.with_name(f".{final.name}.{kind}-{secrets.token_hex(4)}")


def _find_beside(final: Path, kind: str) -> list[Path]:
    return sorted(final.parent.glob(f".{glob.escape(final.name)}.{kind}-*"))


def _remove(old: Path, final: Path) -> None:
    """Removes what `final` was before, under a name that nobody takes for a whole folder."""
    removed = _name_beside(final, _REMOVED)
    os.rename(old, removed)
    _remove_tree(removed)


def _remove_tree(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)  # what cannot be removed now is tried again by the next recovery
    else:
        path.unlink(missing_ok=True)


def _sync_tree(folder: Path) -> None:
    """Sees that every file and folder of a tree is on the disk; what a link points to is not part of it."""
    for inner, _, names in os.walk(folder, topdown=False):
        for name in names:
            path = Path(inner, name)
            if path.is_file() and not path.is_symlink():
                _sync(path)
        sync_folder(Path(inner))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
