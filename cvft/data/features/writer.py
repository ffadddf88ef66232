"""The side of a store that writes: its folder's lock and names, and the shards that are published into it."""

from __future__ import annotations

import errno
import json
import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cvft.data.features.index import find_shards, load_view, number_of, save_index
from cvft.data.features.key import KEY_FILE, FeatureKey, check_key, write_key
from cvft.data.features.shard import ShardFile, as_bytes, is_abandoned
from cvft.errors import FeatureError, Problem, quote
from cvft.files import lock, sync_folder
from cvft.weights.header import count_bytes

STORE_LOCK = "store.lock"

LOCK_SUBJECT = "the lock of a store"
"""Headline of an error about one of its locks."""

MAX_SHARD_BYTES = 2**30
"""About 190 clips of the real model; a builder that is killed loses at most so much work."""

FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""No space, no quota, or no larger file allowed: to the user the same."""


@dataclass(frozen=True)
class StoreFolder:
    """Folder of one store, for those who change it.

    Args:
        path: The folder; made when something is written.
        key: What its entries depend on.
    """

    path: Path
    key: FeatureKey

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keeps other processes from naming and removing files; held for moments only.

        Raises:
            FeatureError: The folder is of another key.
            OSError: The folder cannot be written.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with lock(self.path / STORE_LOCK, timeout_s=None, subject=LOCK_SUBJECT, poll_s=0.005):
            if not (self.path / KEY_FILE).exists():
                write_key(self.path, self.key)
            check_key(self.path, self.key)
            yield

    def open_shard(self) -> ShardFile:
        """Starts a shard that no reader sees yet. Raises what `lock` does."""
        with self.lock():  # between its creation and its own lock it would look abandoned
            return ShardFile(self.path / f"shard-{secrets.token_hex(4)}.safetensors.partial")

    def publish(self, shard: ShardFile) -> None:
        """Gives a whole shard its final name, behind all that were published before. Raises what `lock` does."""
        shard.finish()
        with self.lock():
            number = max(map(number_of, find_shards(self.path)), default=0) + 1
            # a number is free again when its shard was dropped: the random part keeps readers from taking one for other
            shard.path.rename(self.path / f"shard-{number:06d}-{secrets.token_hex(4)}.safetensors")
            sync_folder(self.path)
            save_index(self.path, load_view(self.path))

    def remove_leftovers(self) -> None:
        """Removes what dead writers have left; the folder must be locked."""
        for path in self.path.glob("*.partial"):
            if is_abandoned(path):
                path.unlink(missing_ok=True)
        for path in self.path.glob(".*.tmp"):  # written only under the lock that we hold: their writers are dead
            path.unlink(missing_ok=True)

    @contextmanager
    def explain_failure(self) -> Iterator[None]:
        """Turns the system's refusals into one error that says what to do.

        Raises:
            FeatureError: in place of every OSError.
        """
        try:
            yield
        except OSError as error:
            full = error.errno in FULL_DISK
            got = "a full disk" if full else f"`{error.strerror or error}`"
            need = f"room for {self.key.kind} of clips" if full else "a folder that can be read, written and locked"
            hint = f"{self.key.kind} published before are intact: "
            hint += "free some space and run the same command again" if full else "repair it and run the command again"
            raise FeatureError("the store", [Problem(str(self.path), got, need, hint)]) from error


class FeatureWriter:
    """Takes what is kept clip by clip, and publishes it shard by shard.

    Args:
        folder: Where to.
        is_known: Tells which clips the store holds already.
        max_shard_bytes: A shard is published before it would grow larger; a single entry may be.
    """

    def __init__(self, folder: StoreFolder, *, is_known: Callable[[str], bool], max_shard_bytes: int) -> None:
        self._folder = folder
        self._is_known = is_known
        self._max_shard_bytes = max_shard_bytes
        self._shard: ShardFile | None = None
        self._added: set[str] = set()

    def add(self, clip: str, shape: Sequence[int], dtype: str, data: object) -> bool:
        """Writes what is kept of one clip to the disk; others see it once its shard is published.

        Args:
            clip: sha256 of the clip's file as 64 hex digits.
            shape: Of the tensor.
            dtype: As safetensors names it; the key's.
            data: Anything that holds its bytes one behind the other, little-endian: `bytes`, a NumPy array.

        Returns:
            Whether it was taken; False for a clip that was added or published before.

        Raises:
            FeatureError: The bytes do not fit the shape and the key's dtype, or the disk is full.
        """
        view = self._check(clip, shape, dtype, data)
        if clip in self._added or self._is_known(clip):
            return False
        with self._folder.explain_failure():
            shard = self._shard
            if shard is not None and not shard.fits(clip, shape, dtype, view.nbytes, max_bytes=self._max_shard_bytes):
                self._publish(shard)
                shard = None
            if shard is None:
                shard = self._shard = self._folder.open_shard()
            shard.add(clip, shape, dtype, view)
        self._added.add(clip)
        return True

    def close(self) -> None:
        """Publishes what was added and not yet published.

        Raises:
            FeatureError: The disk is full; nothing half-written is left.
        """
        if self._shard is not None:
            with self._folder.explain_failure():
                self._publish(self._shard)

    def _publish(self, shard: ShardFile) -> None:
        self._shard = None
        try:
            if shard.num_entries:
                self._folder.publish(shard)
        finally:
            shard.discard()  # takes only the name under which it was written: a published shard stays

    def _check(self, clip: str, shape: Sequence[int], dtype: str, data: object) -> memoryview:
        wanted = self._folder.key.dtype
        problems = []
        if not re.fullmatch("[0-9a-f]{64}", clip):
            problems.append(Problem("clip", quote(clip), "the sha256 of a file as 64 hex digits"))
        if dtype != wanted:
            problems.append(Problem("dtype", quote(dtype), f"{quote(wanted)} as in the key"))
        try:
            view = as_bytes(data)
        except (TypeError, ValueError) as error:
            view = memoryview(b"")
            problems.append(Problem("data", f"{error}", "an object whose bytes lie one behind the other"))
        else:
            num_bytes = count_bytes(wanted, shape)
            if view.nbytes != num_bytes:
                need = f"{num_bytes} for {json.dumps(list(shape))} in {quote(wanted)}"
                problems.append(Problem("data", f"{view.nbytes} bytes", need))
        if problems:
            raise FeatureError(f"{self._folder.key.kind} of clip {clip}", problems)
        return view
