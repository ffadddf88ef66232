"""The catalog of clips: what decoding has found, so that a clip is decoded once per content and setting, in whatever run.

path + size + times -> sha256 -> (stretch; sampling, decoder, limits, versions) -> `ClipInfo`, in one SQLite file beside the runs

Every clip is recorded when it is done: who is killed has lost the clips under way alone. Several processes may use it at a time.
Clips that do not decode are not kept: a limit that a busy machine ran into is no property of a clip.

It is a cache. A file that is damaged is set aside and made anew, and where the disk takes none, clips are decoded again the
next time; a warning says so, and nothing else changes.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self, TypeVar

import numpy as np
import psutil
from pydantic import TypeAdapter, ValidationError

from cvft import __version__
from cvft.data.catalog_shares import borrow, mark_begun, mark_done, share_file, take_in
from cvft.data.shares import Share
from cvft.data.video.loader import DecodeSettings
from cvft.data.video.looks import LOOKS_SAMPLING, SIDE_CELLS, ClipLooks
from cvft.data.video.process import ClipInfo
from cvft.data.video.spec import ClipRef, content_of, files_of, hash_files, stat_files
from cvft.data.video.versions import decoder_version
from cvft.errors import CvftError
from cvft.files import lock

LOG = logging.getLogger(__name__)

CLIPS_FOLDER = ".clips"
"""Where the file is, beside the runs."""

FILE = "clips-1.sqlite"
"""The file in its folder. The number changes with the tables, so that no version reads those of another."""

BUSY_TIMEOUT_S = 60.0
"""How long to wait for another process that writes; it takes milliseconds."""

LOCK_TIMEOUT_S = 60.0
"""How long to wait for another process that makes the file anew."""

_NUM_AT_ONCE = 500
"""Names in one question to SQLite, which takes 999 in its older versions."""

_NUM_HASHED_AT_ONCE = 4
"""Files that are hashed at the same time: disks read a few at once faster than one, and many slower."""

_SHARED_DISKS = frozenset(
    (
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "smbfs",
        "lustre",
        "gpfs",
        "beegfs",
        "ceph",
        "fuse.sshfs",
        "fuse.glusterfs",
        "9p",
        "afs",
    )
)
"""Kinds of disks that several machines may write to. Source: sqlite.org/wal.html: WAL does not work over them."""

_OF_DISK = frozenset(
    (
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
    )
)
"""Codes of SQLite for a file that cannot be reached or written; with any other, it is damaged."""

_TABLES = """
CREATE TABLE IF NOT EXISTS files (
    path TEXT PRIMARY KEY, num_bytes INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, ctime_ns INTEGER NOT NULL, sha256 TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS files_by_size ON files (num_bytes);
CREATE TABLE IF NOT EXISTS clips (
    sha256 TEXT NOT NULL, how TEXT NOT NULL, facts TEXT NOT NULL, crc32 INTEGER NOT NULL, PRIMARY KEY (sha256, how)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS looks (
    sha256 TEXT NOT NULL, how TEXT NOT NULL, seconds BLOB NOT NULL, cells BLOB NOT NULL, crc32 INTEGER NOT NULL,
    PRIMARY KEY (sha256, how)
);
"""

_FACTS: TypeAdapter[ClipInfo] = TypeAdapter(ClipInfo)

T = TypeVar("T")

Files = tuple[Path, ...]
"""The files of one clip: one, or those of ready frames."""


@dataclass(frozen=True)
class Looks:
    """What changes when a file is written, replaced or touched.

    Args:
        num_bytes: Its size.
        mtime_ns: When its content was written, in nanoseconds; programs may set it.
        ctime_ns: When the system last changed anything about it, in nanoseconds; programs may not.
    """

    num_bytes: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, files: Files) -> Self | None:
        """Looks at the files of a clip; None where they are not there to be looked at."""
        try:
            return cls(*stat_files(files))
        except OSError:
            return None


class ClipCatalog:
    """What is known of clips that were decoded in one way. Use it in one thread, and close it.

    Args:
        folder: Where the file is; made when it is first needed.
        decode: How clips are decoded.
        share: The share of the clips that this process works on alone, beside others: it records them in a file of its own, which
            the next one without a share takes in.
    """

    def __init__(self, folder: Path, decode: DecodeSettings, *, share: Share | None = None) -> None:
        self._whole = folder / FILE
        self._share = share
        self._path = self._whole if share is None else share_file(self._whole, share)
        self._how = describe_decoding(decode)
        self._how_looks = f"{LOOKS_SAMPLING}, {SIDE_CELLS} cells, {decode.decoder} {decoder_version(decode.decoder)}"
        self._looks: dict[Files, Looks] = {}
        self._db: sqlite3.Connection | None = None
        self._inode = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file."""
        if self._db is not None:
            self._db.close()
            self._db = None

    def finish(self) -> None:
        """Says that a share is through: its file may be removed once it was taken in."""
        if self._share is not None:
            self._use(mark_done)

    def find(self, clips: Iterable[ClipRef]) -> dict[ClipRef, ClipInfo]:
        """Returns what is known of clips; those that are not known, or are other files by now, are left out.

        A file that looks as it did is not read. Any other is, where one of its size is known: a copy of a clip is known too.

        Args:
            clips: The clips.
        """
        clips = list(clips)
        every = dict.fromkeys(map(files_of, clips))
        # before they are decoded: a clip that changes meanwhile is decoded again the next time
        self._looks = {files: looks for files in every if (looks := Looks.of(files)) is not None}
        if self._share is not None:
            names = [_name(files) for files in self._looks]
            self._use(lambda db: borrow(db, self._whole, names))
        hashes = self._use(self._find_hashes)
        copies = self._hash_alike([files for files in self._looks if files not in hashes])
        named = {clip: content_of(clip, sha256) for clip in clips if (sha256 := _hash_of(clip, hashes, copies))}
        facts = self._use(lambda db: self._find_facts(db, set(named.values())))
        found = {clip: facts[name] for clip, name in named.items() if name in facts}
        known = {files: copies[files] for files in map(files_of, found) if files in copies}
        if known:
            self._use(lambda db: self._write_files(db, known))
        return found

    def record(self, clip: ClipRef, info: ClipInfo) -> None:
        """Keeps what was found of a clip; it is on the disk when this returns, as far as a kill goes.

        Args:
            clip: The clip, one of those that `find` was asked for.
            info: What decoding found.
        """
        files = files_of(clip)
        if files not in self._looks:  # it was not there to be looked at
            return
        facts = _FACTS.dump_json(info).decode()

        def write(db: sqlite3.Connection) -> None:
            values = (content_of(clip, info.sha256), self._how, facts, zlib.crc32(facts.encode()))
            with db:
                db.execute("INSERT OR REPLACE INTO clips VALUES (?, ?, ?, ?)", values)
                self._insert_files(db, {files: info.sha256})

        self._use(write)

    def find_looks(self, hashes: Iterable[str]) -> dict[str, ClipLooks]:
        """Returns what clips look like, by the hashes of their bytes; those that are not known are left out."""

        def find(db: sqlite3.Connection) -> dict[str, ClipLooks]:
            found: dict[str, ClipLooks] = {}
            for names, marks in _parts(sorted(set(hashes))):
                question = f"SELECT sha256, seconds, cells, crc32 FROM looks WHERE how = ? AND sha256 IN ({marks})"
                for sha256, seconds, cells, crc32 in db.execute(question, [self._how_looks, *names]):
                    if zlib.crc32(seconds + cells) == crc32:
                        pictures = np.frombuffer(cells, dtype=np.uint8).reshape(-1, SIDE_CELLS**2)
                        found[sha256] = ClipLooks(np.frombuffer(seconds, dtype=np.float64), pictures)
            return found

        return self._use(find)

    def record_looks(self, sha256: str, looks: ClipLooks) -> None:
        """Keeps what a clip looks like; it is on the disk when this returns, as far as a kill goes."""
        seconds, cells = looks.timestamps_s.tobytes(), looks.cells.tobytes()

        def write(db: sqlite3.Connection) -> None:
            values = (sha256, self._how_looks, seconds, cells, zlib.crc32(seconds + cells))
            with db:
                db.execute("INSERT OR REPLACE INTO looks VALUES (?, ?, ?, ?, ?)", values)

        self._use(write)

    def _find_hashes(self, db: sqlite3.Connection) -> dict[Files, str]:
        """Returns the hashes of files that look as they did."""
        found: dict[Files, str] = {}
        by_name = {_name(files): files for files in self._looks}
        for names, marks in _parts(list(by_name)):
            for name, *looks, sha256 in db.execute(f"SELECT * FROM files WHERE path IN ({marks})", names):
                if Looks(*looks) == self._looks[by_name[name]]:
                    found[by_name[name]] = sha256
        return found

    def _find_facts(self, db: sqlite3.Connection, hashes: set[str]) -> dict[str, ClipInfo]:
        found: dict[str, ClipInfo] = {}
        for names, marks in _parts(sorted(hashes)):
            question = f"SELECT sha256, facts, crc32 FROM clips WHERE how = ? AND sha256 IN ({marks})"
            for sha256, facts, crc32 in db.execute(question, [self._how, *names]):
                with suppress(ValidationError):  # of another version of this program, or damaged
                    if zlib.crc32(facts.encode()) == crc32:
                        found[sha256] = _FACTS.validate_json(facts)
        return found

    def _hash_alike(self, every: Sequence[Files]) -> dict[Files, str]:
        """Hashes those files that have the size of a known one."""

        def find_sizes(db: sqlite3.Connection) -> set[int]:
            return {size for (size,) in db.execute("SELECT DISTINCT num_bytes FROM files")}

        sizes = self._use(find_sizes) if every else set()
        alike = [files for files in every if self._looks[files].num_bytes in sizes]
        with ThreadPoolExecutor(_NUM_HASHED_AT_ONCE) as pool:
            hashes = list(pool.map(_try_hash, alike))
        return {files: sha256 for files, sha256 in zip(alike, hashes, strict=True) if sha256}

    def _write_files(self, db: sqlite3.Connection, hashes: Mapping[Files, str]) -> None:
        with db:
            self._insert_files(db, hashes)

    def _insert_files(self, db: sqlite3.Connection, hashes: Mapping[Files, str]) -> None:
        rows = [(_name(files), *vars(self._looks[files]).values(), sha256) for files, sha256 in hashes.items()]
        db.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?)", rows)

    def _use(self, do: Callable[[sqlite3.Connection], T]) -> T:
        """Does something with the file; on one that is damaged, after it was made anew, and at the worst without one."""
        try:
            return do(self._open())
        except (sqlite3.Error, OSError) as error:
            try:
                if _is_of_disk(error):
                    raise
                self._renew(error)
                return do(self._open())
            except (CvftError, sqlite3.Error, OSError) as again:
                self._do_without(again)
        return do(self._open())

    def _open(self) -> sqlite3.Connection:
        if self._db is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            db = sqlite3.connect(self._path.absolute().as_uri(), timeout=BUSY_TIMEOUT_S, uri=True)
            try:
                is_apart = self._share is not None or _is_shared(self._path.parent)
                db.execute(f"PRAGMA journal_mode = {'DELETE' if is_apart else 'WAL'}")
                db.execute("PRAGMA synchronous = NORMAL")  # a power cut may cost the last clips, and never the file
                db.executescript(_TABLES)
                if self._share is None:
                    take_in(db, self._path)
                else:
                    mark_begun(db)
                self._inode = self._path.stat().st_ino
            except BaseException:  # Ctrl-C too: the next attempt opens the file anew
                db.close()
                raise
            self._db = db
        return self._db

    def _renew(self, error: Exception) -> None:
        """Sets a damaged file aside, unless another process has done so meanwhile."""
        self.close()
        with lock(self._path.with_suffix(".lock"), timeout_s=LOCK_TIMEOUT_S, subject="the catalog of clips"):
            if self._inode not in (-1, self._path.stat().st_ino if self._path.exists() else -1):
                return
            if self._inode == -1 and _is_whole(self._path):
                return
            aside = self._path.with_suffix(".damaged")
            for ending in ("-wal", "-shm"):
                Path(f"{self._path}{ending}").unlink(missing_ok=True)
            with suppress(FileNotFoundError):
                os.replace(self._path, aside)
            self._inode = -1
        LOG.warning(
            "clips     %s is damaged (%s): set aside as %s, clips are decoded again", self._path, error, aside.name
        )

    def _do_without(self, error: Exception) -> None:
        """Goes on with an empty catalog in memory."""
        LOG.warning("clips     %s cannot be used (%s): the next start decodes all clips again", self._path, error)
        self.close()
        self._db = sqlite3.connect(":memory:")
        self._db.executescript(_TABLES)


def describe_decoding(decode: DecodeSettings) -> str:
    """Says all that decides what is found of a clip, but for the clip: what is known of it holds for this alone."""
    names = ",".join(field.name for field in fields(ClipInfo))
    return f"{decode}, version {decoder_version(decode.decoder)}, cvft {__version__}: {names}"


def _is_of_disk(error: sqlite3.Error | OSError) -> bool:
    """Says whether it is the disk that refuses, or another process that is in the way, and no fault of the file."""
    return isinstance(error, OSError) or error.sqlite_errorcode & 0xFF in _OF_DISK


def _is_whole(path: Path) -> bool:
    try:
        with closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT_S)) as db:
            return [row[0] for row in db.execute("PRAGMA quick_check(1)")] == ["ok"]
    except sqlite3.Error:
        return False


def _is_shared(folder: Path) -> bool:
    """Says whether several machines may have a folder's disk."""
    kinds = {Path(disk.mountpoint): disk.fstype for disk in psutil.disk_partitions(all=True)}
    place = folder.resolve()
    return next((kinds[each] for each in (place, *place.parents) if each in kinds), "") in _SHARED_DISKS


def _name(files: Files) -> str:
    return "\n".join(map(str, files))


def _hash_of(clip: ClipRef, *hashes: Mapping[Files, str]) -> str | None:
    files = files_of(clip)
    return next((known[files] for known in hashes if files in known), None)


def _try_hash(files: Files) -> str:
    try:
        return hash_files(files)
    except OSError:  # whoever decodes it says what is wrong with it
        return ""


def _parts(names: Sequence[str]) -> Iterator[tuple[Sequence[str], str]]:
    for begin in range(0, len(names), _NUM_AT_ONCE):
        part = names[begin : begin + _NUM_AT_ONCE]
        yield part, ",".join("?" * len(part))
