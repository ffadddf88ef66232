"""Vision features, or pixels, for a training: its ranks build what the store lacks, together, and read all of it.

store + clip records -> clips that it lacks, shared out to the ranks -> `cvft.clips.build` -> a whole store
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping

from cvft.clips.build import BuildSource, build_store, missing_clips
from cvft.data.features.store import FeatureStore
from cvft.data.records import ClipRecord
from cvft.data.video.spec import ClipRef, content_of

POLL_S = 0.2
"""Seconds between two looks at what the other ranks have built."""


def provide(
    store: FeatureStore,
    records: Mapping[ClipRef, ClipRecord],
    *,
    source: BuildSource,
    rank: int,
    num_ranks: int,
    report: Callable[[int, int], object],
    must_stop: Callable[[], bool],
) -> bool:
    """Builds what the store lacks, together with the other ranks; called by each worker before it trains.

    Args:
        store: The store.
        records: What is known of each clip.
        source: What they are made with on this rank.
        rank: This rank.
        num_ranks: Number of ranks.
        report: Called with the clips that this rank has done and has to do.
        must_stop: Asked now and then.

    Returns:
        Whether every clip is there; False when it was asked to stop before.

    Raises:
        CvftError: when a clip cannot be decoded or the store cannot be written.
    """
    # several ranks share the work; of several runs, one does it and the others wait
    alone = num_ranks == 1 and missing_clips(store, records)
    with store.build_lock() if alone else contextlib.nullcontext():
        mine = missing_clips(store, share_of(records, rank=rank, num_ranks=num_ranks))
        bar = _Counter(len(mine), report)
        build_store(store, mine, records=records, source=source, on_progress=bar.update, must_stop=must_stop)
    while missing_clips(store, records):
        if must_stop():
            return False
        time.sleep(POLL_S)
    return True


def share_of(records: Mapping[ClipRef, ClipRecord], *, rank: int, num_ranks: int) -> dict[ClipRef, ClipRecord]:
    """Returns the clips that one rank makes.

    It depends on the clips alone, not on what the store lacks: a rank that starts late finds less missing than the others did,
    and a share of that would leave clips that nobody makes.

    Args:
        records: All clips.
        rank: The rank.
        num_ranks: Number of ranks.
    """
    contents = {clip: content_of(clip, record.sha256) for clip, record in records.items()}
    mine = set(sorted(set(contents.values()))[rank::num_ranks])
    return {clip: record for clip, record in records.items() if contents[clip] in mine}


class _Counter:
    """Turns clips done one by one into how many of how many."""

    def __init__(self, total: int, report: Callable[[int, int], object]) -> None:
        self.done, self.total, self.report = 0, total, report
        report(0, total)

    def update(self, count: int) -> None:
        self.done += count
        self.report(self.done, self.total)
