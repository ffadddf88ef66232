"""Forms in which a JSON file may come back from a disk, a hand or another tool, none of them what was written."""

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

VALUES: tuple[Any, ...] = (None, True, -1, 1.5, 10**30, 1e308, "", "x", [], [1], {}, {"a": {}}, [[[]]], "\u2028")
RAW = (
    *(b"", b"{", b"[", b"]", b"null", b"0", b"NaN", b'"text"', b"[]", b"{}", b"\xff\xfe", b"\x00" * 64),
    *(b"{}" * 2, b"[" * 100_000, b'{"a":' * 100_000, b"1" * 100_000, b'"\\ud800"', b"\xef\xbb\xbf{}"),
)

MANIFEST: dict[str, Any] = {
    "cvft": "0.1.0",
    "packages": {"torch": "2.13.0", "decord": None},
    "base": {"path": "tiny", "hub": None, "id": None, "commit": None},
    "rows": {
        "num_train": 2,
        "num_val": 2,
        "num_quarantined": 0,
        "train_sha256": "ab" * 32,
        "val_sha256": None,
    },
    "clips": {"/clips/a.mp4": {"sha256": "cd" * 32, "num_frames": 3, "duration_s": 3.5}},
    "contract": {},
}
"""What others ask of a run's manifest, and no more."""


def broken_forms(whole: bytes, *, seed: int) -> Iterator[bytes]:
    """Yields other documents, the file cut at many places, keys left out, and each value replaced by those of other types."""
    dice = random.Random(seed)
    yield from RAW
    end = len(whole.rstrip()) - 1
    yield from (whole[:at] for at in sorted(dice.sample(range(1, end), min(60, end - 1))))
    document = json.loads(whole)
    for path in list(_paths(document)):
        *parents, last = path
        for value in VALUES:
            changed = copy.deepcopy(document)
            parent = changed
            for key in parents:
                parent = parent[key]
            if json.dumps(parent[last]) == json.dumps(value):
                continue
            parent[last] = value
            yield json.dumps(changed).encode()
        changed = copy.deepcopy(document)
        parent = changed
        for key in parents:
            parent = parent[key]
        del parent[last]
        yield json.dumps(changed).encode()


def _paths(value: Any, prefix: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*prefix, key)
        yield from _paths(inner, (*prefix, key))
