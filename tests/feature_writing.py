"""Stores of vision features and pixels with bytes that everybody knows, and what holds for them; no torch, to start quickly."""

import random
from hashlib import sha256
from pathlib import Path

from safetensors import safe_open

from cvft.data.features.index import INDEX_FILE
from cvft.data.features.key import KEY_FILE, FeatureKey
from cvft.data.features.store import BUILD_LOCK, FeatureStore

KEY = FeatureKey(
    sampling="uniform",
    max_frames=24,
    decoder="pyav",
    decoder_version="17.1.0",
    fields={"image_size_px": 224},
    tower_sha256="ab" * 32,
    dtype="BF16",
    device="cpu",
    attention="sdpa",
)


PIXEL_KEY = FeatureKey(
    sampling="uniform",
    max_frames=24,
    decoder="pyav",
    decoder_version="17.1.0",
    fields={"image_size_px": 224},
    dtype="U8",
)

KEYS = {"features": KEY, "pixels": PIXEL_KEY}


def clip_of(name: object) -> str:
    return sha256(f"{name}".encode()).hexdigest()


def bytes_of(name: object, num_bytes: int = 512) -> bytes:
    """Bytes that a clip always has, whoever writes it."""
    return random.Random(f"{name}").randbytes(num_bytes)


def add(writer, store: FeatureStore, name, num_bytes: int = 512) -> None:
    shape = (1, num_bytes // (1 if store.key.kind == "pixels" else 2))
    writer.add(clip_of(name), shape, store.key.dtype, bytes_of(name, num_bytes))


def fill(store: FeatureStore, names, *, max_shard_bytes: int = 2**30, num_bytes: int = 512) -> None:
    with store.writer(max_shard_bytes=max_shard_bytes) as writer:
        for name in names:
            add(writer, store, name, num_bytes)


def shards(store: FeatureStore) -> list[Path]:
    return sorted(store.folder.glob("shard-*.safetensors"))


def assert_holds(store: FeatureStore, names, num_bytes: int = 512) -> None:
    names = list(names)
    assert names
    assert store.missing(map(clip_of, names)) == []
    for name in names:
        assert store.read(clip_of(name)).data == bytes_of(name, num_bytes)


def assert_valid(store: FeatureStore) -> None:
    """Nothing damaged, nothing left over, and every shard opens in the library itself."""
    assert store.check() == []
    assert store.verify() == []
    known = {KEY_FILE, INDEX_FILE, "store.lock", BUILD_LOCK, *(path.name for path in shards(store))}
    assert {path.name for path in store.folder.iterdir()} <= known
    for path in shards(store):
        with safe_open(path, framework="numpy") as file:
            assert list(file.keys())
