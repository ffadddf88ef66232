"""The store of one key: what is missing, reading, writing, and finding and dropping what is damaged."""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from cvft.data.features.index import DamagedShard, StoreView, load_view, save_index
from cvft.data.features.key import FeatureKey, check_key
from cvft.data.features.shard import DamagedShardError, Feature, checksum_of, map_shard
from cvft.data.features.writer import LOCK_SUBJECT, MAX_SHARD_BYTES, FeatureWriter, StoreFolder
from cvft.errors import FeatureError, Problem
from cvft.files import LockHeldError, lock

BUILD_LOCK = "build.lock"

OTHER_BYTES = "bytes that do not match their checksum"


class FeatureStore:
    """The features, or the pixels, of one key. A store can be pickled, and used by the children of a fork.

    What it answers is what its folder held when it last looked. `missing`, `check`, `verify` and a read of an unknown
    clip look again, and so does a writer when it is done.

    Args:
        root: Folder of all stores. Nothing is made before something is written.
        key: What they depend on.

    Raises:
        FeatureError: The folder is of another key, or cannot be read.

    Example:
        ```
        with store.build_lock():  # another process may have built what we lack, so ask inside
            todo = store.missing(clips)
            with store.writer() as writer:
                for clip in todo:
                    writer.add(clip, (24, 64, 1792), "BF16", encode(clip))
        feature = store.read(clips[0])
        ```
    """

    def __init__(self, root: Path, key: FeatureKey) -> None:
        self.root = root
        self.key = key
        self.folder = root / key.digest()[:16]
        self._disk = StoreFolder(self.folder, key)
        self._maps: dict[str, mmap.mmap] = {}
        check_key(self.folder, key)
        with self._disk.explain_failure():
            self._view = load_view(self.folder)

    def __reduce__(self) -> tuple[type[FeatureStore], tuple[Path, FeatureKey]]:
        """Lets the store cross into a data loader's worker; a mapped file cannot."""
        return type(self), (self.root, self.key)

    def __contains__(self, clip: str) -> bool:
        return clip in self._view.locations

    def __len__(self) -> int:
        return len(self._view.locations)

    def num_bytes(self) -> int:
        """Returns the bytes that the store's whole shards take on the disk."""
        return sum(self._view.facts[shard].size_bytes for shard in self._view.entries)

    @property
    def damage(self) -> tuple[DamagedShard, ...]:
        """The shards that could not be used when the store last looked; their clips count as missing."""
        return self._view.damage

    def missing(self, clips: Iterable[str]) -> list[str]:
        """Returns the clips of which nothing is kept yet, each once, in the order given.

        Args:
            clips: sha256 of each clip's file, as 64 hex digits.

        Raises:
            FeatureError: The folder cannot be read.
        """
        self._look()
        return [clip for clip in dict.fromkeys(clips) if clip not in self._view.locations]

    def read_checked(self, clip: str) -> Feature:
        """Returns what is kept of a clip after comparing it with its checksum.

        Args:
            clip: sha256 of the clip's file.

        Raises:
            FeatureError: It is not there, or not what was published.
        """
        feature = self.read(clip)
        shard, entry = self._view.locations[clip]
        if checksum_of(clip, feature.dtype, feature.shape, feature.data) != entry.checksum:
            hint = "`cvft features RECIPE` finds and replaces what is damaged"
            problem = Problem(str(self.folder / shard), OTHER_BYTES, "the bytes that were published", hint)
            raise FeatureError("the store", [problem])
        return feature

    def read(self, clip: str) -> Feature:
        """Returns what is kept of a clip, bit for bit as it was added, without a copy.

        Args:
            clip: sha256 of the clip's file.

        Raises:
            FeatureError: It is not there, or not any more.
        """
        with self._disk.explain_failure():
            feature = self._find(clip)
            if feature is None:  # published, or dropped and built again, since we last looked
                self._look()
                feature = self._find(clip)
        if feature is not None:
            return feature
        kind = self.key.kind
        problem = Problem(f"clip {clip}", f"no {kind}", kind, f"make the {kind} of this clip first")
        need = "the bytes that were published"
        damaged = [Problem(item.shard.name, item.reason, need, "drop it: its clips are made again")
                   for item in self._view.damage]  # fmt: skip
        raise FeatureError(f"store {self.folder}", [problem, *damaged])

    @contextmanager
    def writer(self, *, max_shard_bytes: int = MAX_SHARD_BYTES) -> Iterator[FeatureWriter]:
        """Takes what is to be kept. What was added is published when a shard is full and at the end, even after an exception.

        Args:
            max_shard_bytes: A shard is published before it would grow larger; a single entry may be.

        Raises:
            FeatureError: The disk is full, or the folder cannot be written; nothing half-written is left.
        """
        writer = FeatureWriter(self._disk, is_known=self.__contains__, max_shard_bytes=max_shard_bytes)
        try:
            yield writer
        finally:
            writer.close()
            self._look()

    @contextmanager
    def build_lock(self, *, timeout_s: float | None = None, share: str = "") -> Iterator[None]:
        """Lets one process at a time make what the store lacks. It dies with its process.

        It keeps work from being done twice; writers that do not hold it do no damage.

        Args:
            timeout_s: Seconds to wait for another builder; None waits as long as it takes.
            share: Name of the share of the clips that it is about: those of other shares are built at the same time.

        Raises:
            FeatureError: Another process still builds when the time is up, or the folder cannot be written.
        """
        with self._disk.explain_failure(), self._disk.lock():
            pass  # makes the folder, with its key
        with ExitStack() as stack:
            try:
                stack.enter_context(
                    lock(self.folder / f"{share}{BUILD_LOCK}", timeout_s=timeout_s, subject=LOCK_SUBJECT)
                )
            except LockHeldError as error:
                raise FeatureError(error.subject, error.problems) from None
            yield

    def check(self) -> list[DamagedShard]:
        """Removes what dead writers have left, compares every shard's header with its file, and renews the index.

        It reads headers only: `verify` finds a flipped bit behind them.

        Returns:
            The damaged shards. They stay where they are until they are given to `drop_damaged`.

        Raises:
            FeatureError: The folder cannot be written.
        """
        if not self.folder.is_dir():
            return []
        with self._disk.explain_failure(), self._disk.lock():
            self._disk.remove_leftovers()
            self._take(load_view(self.folder, trust_index=False))
            save_index(self.folder, self._view)
        return list(self._view.damage)

    def verify(self, clips: Iterable[str] | None = None) -> list[DamagedShard]:
        """Reads what is kept and compares it with its checksums.

        Args:
            clips: Those of them that are in the store are read; None takes all, at the price of reading every byte.

        Returns:
            The shards with bytes that differ, each with those clips, as well as the shards that cannot be used at all.

        Raises:
            FeatureError: The folder cannot be read.
        """
        self._look()
        flipped: dict[str, list[str]] = {}
        wanted = dict.fromkeys(self._view.locations if clips is None else clips)
        for clip in [clip for clip in wanted if clip in self]:
            feature = self.read(clip)
            shard, entry = self._view.locations[clip]
            if checksum_of(clip, feature.dtype, feature.shape, feature.data) != entry.checksum:
                flipped.setdefault(shard, []).append(clip)
        found = [
            DamagedShard(self.folder / shard, OTHER_BYTES, tuple(broken)) for shard, broken in sorted(flipped.items())
        ]
        return [*self._view.damage, *found]

    def drop_damaged(self, damage: Iterable[DamagedShard]) -> list[str]:
        """Removes damaged shards, with all that is in them, so that their clips are made again.

        Args:
            damage: From `check` or `verify`.

        Returns:
            The clips of which nothing is kept now, as far as their names can be read, in sorted order.

        Raises:
            FeatureError: The folder cannot be written.
        """
        dropped = {item.shard.name: item for item in damage}
        if not dropped:
            return []
        before = {clip for item in dropped.values() for clip in item.clips}
        before.update(*(self._view.entries.get(name, {}) for name in dropped))
        with self._disk.explain_failure(), self._disk.lock():
            for name in dropped:
                (self.folder / name).unlink(missing_ok=True)
            self._take(load_view(self.folder, self._view))
            save_index(self.folder, self._view)
        return sorted(before - self._view.locations.keys())

    def _find(self, clip: str) -> Feature | None:
        location = self._view.locations.get(clip)
        if location is None:
            return None
        shard, entry = location
        mapped = self._maps.get(shard)
        if mapped is None:
            try:
                mapped = map_shard(self.folder / shard, size_bytes=self._view.facts[shard].size_bytes)
            except (FileNotFoundError, DamagedShardError):
                return None
            self._maps[shard] = mapped
        return Feature(entry.shape, entry.dtype, memoryview(mapped)[entry.begin : entry.end])

    def _look(self) -> None:
        """Takes in what was published or dropped since."""
        with self._disk.explain_failure():
            self._take(load_view(self.folder, self._view))

    def _take(self, view: StoreView) -> None:
        # what is gone or has changed must not be read through an old map; a feature in use keeps its map alive
        same = {name for name in view.entries if view.facts[name] == self._view.facts.get(name)}
        self._maps = {name: mapped for name, mapped in self._maps.items() if name in same}
        self._view = view
