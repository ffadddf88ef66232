"""Which clip lies where in a store's folder, read from the shards' headers or, faster, from `index.json`.

    folder/shard-*.safetensors (+ index.json) --load_view--> StoreView: clip -> shard and entry, damaged shards

The index holds, for each shard, its size and time of change beside its entries. What differs from the file in the
folder is read from the file. The index carries its own checksum, so one that was cut or changed counts for nothing.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import astuple, dataclass
from functools import cached_property
from pathlib import Path

from cvft.data.features.shard import DamagedShardError, Entry, read_entries
from cvft.files import write_whole

INDEX_FILE = "index.json"


@dataclass(frozen=True)
class ShardFacts:
    """By what a shard is known as the one that was read before.

    Args:
        size_bytes: Of the file.
        changed_ns: Time of its last change, in nanoseconds of the Unix epoch.
    """

    size_bytes: int
    changed_ns: int


@dataclass(frozen=True)
class DamagedShard:
    """One shard that is not what was published.

    Args:
        shard: The file.
        reason: What was found in place of the published bytes.
        clips: Those that are lost with it, as far as their names can still be read.
    """

    shard: Path
    reason: str
    clips: tuple[str, ...]


@dataclass(frozen=True)
class StoreView:
    """What a folder held when it was looked at.

    Args:
        facts: Of every shard in the folder, damaged ones included, by name.
        entries: Of the shards that are whole: clip to entry, by the shard's name.
        damage: The other shards.
    """

    facts: Mapping[str, ShardFacts]
    entries: Mapping[str, Mapping[str, Entry]]
    damage: tuple[DamagedShard, ...] = ()

    @cached_property
    def locations(self) -> dict[str, tuple[str, Entry]]:
        """Where each clip is read: in the shard that was published first of those that hold it."""
        locations: dict[str, tuple[str, Entry]] = {}
        for shard in sorted(self.entries):
            for clip, entry in self.entries[shard].items():
                locations.setdefault(clip, (shard, entry))
        return locations


EMPTY_VIEW = StoreView({}, {})


def number_of(shard: str) -> int:
    """Returns the number in a shard's name: they count in the order of publication."""
    found = re.match(r"shard-(\d+)-", shard)
    return int(found[1]) if found else 0


def find_shards(folder: Path) -> dict[str, ShardFacts]:
    """Returns what is in a folder under a final name."""
    found = {}
    for path in folder.glob("shard-*.safetensors"):
        with suppress(FileNotFoundError):  # dropped by another process, just now
            status = path.stat()
            found[path.name] = ShardFacts(status.st_size, status.st_mtime_ns)
    return found


def load_view(folder: Path, known: StoreView = EMPTY_VIEW, *, trust_index: bool = True) -> StoreView:
    """Looks at a folder and reads the headers of those shards that are not known yet.

    Args:
        folder: Folder of one store; it need not exist.
        known: What was seen before. It is returned itself when nothing has changed.
        trust_index: Take entries from `index.json` too.

    Raises:
        PermissionError: A shard may not be read.
    """
    facts = find_shards(folder)
    if facts == known.facts and trust_index:
        return known
    index = _read_index(folder) if trust_index else EMPTY_VIEW
    entries: dict[str, Mapping[str, Entry]] = {}
    damage = []
    for name in sorted(facts):
        before = next((view for view in (known, index) if name in view.entries), EMPTY_VIEW)
        if trust_index and before.facts.get(name) == facts[name]:
            entries[name] = before.entries[name]
            continue
        try:
            entries[name] = read_entries(folder / name)
        except FileNotFoundError:
            del facts[name]
        except DamagedShardError as error:
            lost = error.clips or tuple(before.entries.get(name, ()))
            damage.append(DamagedShard(folder / name, error.reason, lost))
    return StoreView(facts, entries, tuple(damage))


def save_index(folder: Path, view: StoreView) -> None:
    """Writes the index of a folder; its store must be locked. A full disk costs the index, and nothing else.

    Args:
        folder: Folder of one store.
        view: What is in it.
    """
    shards = {
        name: {"facts": astuple(view.facts[name]), "entries": {clip: astuple(entry) for clip, entry in entries.items()}}
        for name, entries in view.entries.items()
    }
    text = json.dumps(shards)
    with suppress(OSError):  # whoever finds no index, or an old one, reads the headers
        write_whole(folder / INDEX_FILE, f'{{"sha256": "{_hash(text)}", "shards": {text}}}\n')


def _read_index(folder: Path) -> StoreView:
    """Reads the index, or nothing when it is absent or not what was written."""
    try:
        index = json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))
        if index["sha256"] != _hash(json.dumps(index["shards"])):
            return EMPTY_VIEW
        shards = index["shards"]
        return StoreView(
            {name: ShardFacts(*shard["facts"]) for name, shard in shards.items()},
            {
                name: {clip: _read_entry(*entry) for clip, entry in shard["entries"].items()}
                for name, shard in shards.items()
            },
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return EMPTY_VIEW


def _read_entry(dtype: str, shape: list[int], begin: int, end: int, checksum: int) -> Entry:
    return Entry(dtype, tuple(shape), begin, end, checksum)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
