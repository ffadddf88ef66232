"""Takes damaged shards out of a store, so that their clips are made again."""

from __future__ import annotations

import logging

from cvft.data.features.store import FeatureStore

LOG = logging.getLogger(__name__)


def repair_store(store: FeatureStore, *, reads_all: bool = False) -> None:
    """Removes damaged shards, and says so.

    Args:
        store: The store.
        reads_all: Whether to compare every byte with its checksum; otherwise only the files' sizes and headers.
    """
    damage = [*store.check(), *(store.verify() if reads_all else [])]
    for item in {item.shard: item for item in damage}.values():
        LOG.warning("%-9s %s: %s; its clips are %s again", store.key.kind, item.shard, item.reason, store.key.made)
    store.drop_damaged(damage)
