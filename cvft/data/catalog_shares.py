"""Catalogs of shares: each process of a job array records clips in a file of its own, and whoever opens the catalog takes all in.

`clips-1.share-0-of-4.sqlite` ... `clips-1.share-3-of-4.sqlite` -> `clips-1.sqlite`

Machines that share a disk do not write to one SQLite file: its write-ahead log needs memory that they have in common, and its
other journals need locks that network disks hold unreliably. A file with one writer needs neither. Source: sqlite.org/wal.html,
sqlite.org/faq.html 5.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cvft.data.shares import Share

LOG = logging.getLogger(__name__)

DONE = 1
"""`user_version` of the file of a share whose process has ended by itself, and not by a kill."""

_NUM_AT_ONCE = 500

_NEWER = (
    "ON CONFLICT (path) DO UPDATE SET num_bytes = excluded.num_bytes, mtime_ns = excluded.mtime_ns, "
    "ctime_ns = excluded.ctime_ns, sha256 = excluded.sha256 WHERE excluded.ctime_ns > files.ctime_ns"
)


def share_file(catalog: Path, share: Share) -> Path:
    """Returns the file of a share, beside that of the catalog."""
    return catalog.with_name(f"{catalog.stem}.share-{share.number}-of-{share.total}{catalog.suffix}")


def mark_done(db: sqlite3.Connection) -> None:
    """Says in the file of a share that its process is through: whoever takes it in may remove it."""
    db.execute(f"PRAGMA user_version = {DONE}")


def mark_begun(db: sqlite3.Connection) -> None:
    """Says in the file of a share that a process writes to it."""
    db.execute("PRAGMA user_version = 0")


def take_in(db: sqlite3.Connection, catalog: Path) -> None:
    """Takes what all shares have recorded into the catalog, and removes the files of those that are through.

    A share that still runs, or was killed, gives what it has so far, and keeps its file. One that cannot be read is left
    where it is, with a warning: its clips are decoded again.

    Args:
        db: The open catalog.
        catalog: Its file.
    """
    for path in sorted(catalog.parent.glob(f"{catalog.stem}.share-*{catalog.suffix}")):
        try:
            with _attached(db, path, mode="rw"):
                (state,) = db.execute("PRAGMA other.user_version").fetchone()
                with db:
                    # WHERE true: else SQLite takes ON for a part of a join
                    db.execute(f"INSERT INTO files SELECT * FROM other.files WHERE true {_NEWER}")
                    for table in ("clips", "looks"):
                        db.execute(f"INSERT OR IGNORE INTO {table} SELECT * FROM other.{table}")
        except sqlite3.Error as error:
            LOG.warning("clips     %s cannot be read (%s): its clips are decoded again", path, error)
            continue
        if state == DONE:
            path.unlink(missing_ok=True)


def borrow(db: sqlite3.Connection, catalog: Path, names: Sequence[str]) -> None:
    """Copies what the catalog knows of clips into the file of a share; where it cannot be read, nothing.

    Args:
        db: The open file of the share.
        catalog: The file of the catalog, which is only read.
        names: The names of the clips.
    """
    if not catalog.is_file():
        return
    try:
        with _attached(db, catalog, mode="ro"), db:
            for begin in range(0, len(names), _NUM_AT_ONCE):
                part = names[begin : begin + _NUM_AT_ONCE]
                marks = ",".join("?" * len(part))
                db.execute(f"INSERT INTO files SELECT * FROM other.files WHERE path IN ({marks}) {_NEWER}", part)
            for table in ("clips", "looks"):
                known = f"SELECT * FROM other.{table} WHERE sha256 IN (SELECT sha256 FROM files)"
                db.execute(f"INSERT OR IGNORE INTO {table} {known}")
    except sqlite3.Error as error:
        LOG.info("clips     %s cannot be read by a share (%s): its clips are decoded again", catalog, error)


@contextmanager
def _attached(db: sqlite3.Connection, path: Path, *, mode: str) -> Iterator[None]:
    db.execute("ATTACH DATABASE ? AS other", [f"{path.absolute().as_uri()}?mode={mode}"])
    try:
        yield
    finally:
        db.execute("DETACH DATABASE other")
