"""The clips that a server keeps: within their bytes, and never one that a request holds."""

from pathlib import Path

import pytest

from cvft.serve import media
from cvft.serve.media import MediaStore


@pytest.fixture
def store(monkeypatch):
    monkeypatch.setattr(media, "SPOOL_BYTES", 1000)
    kept = MediaStore([], max_bytes=10**6)
    yield kept
    kept.close()


def sizes(store: MediaStore) -> int:
    """What lies in the server's folder, which is what is counted."""
    on_disk = sum(path.stat().st_size for path in store.spool.iterdir())
    assert store._num_bytes == on_disk == sum(store._sizes.values())
    return on_disk


def fetched(store: MediaStore, content: bytes) -> Path:
    path = store.spool / "fetched"
    path.write_bytes(content)
    return path


def test_clips_make_room_unless_they_are_in_use(store):
    first, second = store.add(b"a" * 400), store.add(b"b" * 400, in_use=True)
    store.add(b"a" * 400)  # the same clip is counted once
    assert sizes(store) == 800
    third = store.take(fetched(store, b"c" * 500), sha256="c" * 64)
    assert (first.exists(), second.exists(), third.exists()) == (False, True, True)
    assert sizes(store) == 900
    store.take(fetched(store, b"c" * 500), sha256="c" * 64)  # fetched again
    assert sizes(store) == 900
    fourth = store.add(b"d" * 900)  # nothing can go
    assert sizes(store) == 1800
    store.release(second)
    assert (second.exists(), third.exists(), fourth.exists()) == (False, True, False)
    assert sizes(store) == 500
    store.release(third)
    store.release(third)
    assert sizes(store) == 500
