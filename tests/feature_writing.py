"""Fills a store of vision features with bytes that everybody knows; without torch, for processes that start quickly."""

import random
from hashlib import sha256

from cvft.data.features.key import FeatureKey
from cvft.data.features.store import FeatureStore

KEY = FeatureKey(
    sampling="uniform",
    max_frames=24,
    decoder="pyav",
    decoder_version="17.1.0",
    image_size_px=224,
    tower_sha256="ab" * 32,
    dtype="BF16",
    device="cpu",
    attention="sdpa",
)


def clip_of(name: object) -> str:
    return sha256(f"{name}".encode()).hexdigest()


def bytes_of(name: object, num_bytes: int = 512) -> bytes:
    """Bytes that a clip always has, whoever writes it."""
    return random.Random(f"{name}").randbytes(num_bytes)


def fill(store: FeatureStore, names, *, max_shard_bytes: int = 2**30, num_bytes: int = 512) -> None:
    with store.writer(max_shard_bytes=max_shard_bytes) as writer:
        for name in names:
            writer.add(clip_of(name), (1, num_bytes // 2), "BF16", bytes_of(name, num_bytes))
