"""`cvft features`: features or pixels of every clip of a recipe, or of a share of them, made once, ahead of training."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from tqdm import tqdm

from cvft.clips.build import BuildSource, build_store, missing_clips
from cvft.data.catalog import ClipCatalog
from cvft.data.check import check_clips
from cvft.data.features.key import Kind
from cvft.data.features.repair import repair_store
from cvft.data.features.store import FeatureStore
from cvft.data.records import ClipRecord
from cvft.data.shares import Share, take_share
from cvft.data.video.process import ClipInfo
from cvft.data.video.spec import ClipRef, content_of
from cvft.errors import Problem, RecipeError
from cvft.families.runtime import load_runtime
from cvft.plan.batching import RowFacts
from cvft.plan.caching import choose_kind, count_bytes
from cvft.plan.datasets import bring_datasets
from cvft.plan.job import Job
from cvft.plan.prepare import prepare, read_sources
from cvft.plan.proofs import AS_IF_CACHED


def build_ahead(job: Job) -> str:
    """Checks a recipe's clips and makes what the store lacks of them: what the training would keep of clips that come twice.

    Args:
        job: The job.

    Returns:
        What was done, for the terminal.

    Raises:
        CvftError: when recipe, rows, clips or model do not allow it.
    """
    kind = _find_kind(job)
    prepared = prepare(job)  # the training reports rows that are set aside, and keeps their list
    if job.recipe.video.cache_features == "auto":
        kind = _choose_kind(job, prepared.row_facts)
    store = _open_store(job, kind)
    repair_store(store, reads_all=True)
    return _build(job, store, prepared.clips, share="")


def build_share(job: Job, share: Share) -> str:
    """Checks a share of a recipe's clips, and makes what the store lacks of them, while others do other shares.

    Whether features of all clips fit cannot be seen from a share: pixels in their place have to be asked for.

    All write to one store: what is published never changes, and no two processes write to one file of it. Nothing is repaired
    meanwhile, for what another process is about to publish looks like what a dead one has left, where a disk knows no locks.

    Args:
        job: The job.
        share: The share.

    Returns:
        What was done, for the terminal.

    Raises:
        CvftError: when recipe, rows, clips or model do not allow it.
    """
    kind = _find_kind(job)
    recipe, decode = job.recipe, job.preprocessing.decode
    bring_datasets(recipe)
    read = read_sources(recipe.data.sources, recipe=recipe)
    rows = take_share([row for of_file in read.values() for row in of_file], share)
    if not any(row.videos for row in rows):
        return f"share {share}: no clips"
    with ClipCatalog(job.clips_root, decode, share=share) as catalog:
        checked = check_clips(
            rows,
            sampling=decode.sampling,
            decoder=decode.decoder,
            on_bad_clip=recipe.data.on_bad_clip,
            timeout_s=decode.timeout_s,
            memory_limit_gib=decode.memory_gib,
            num_workers=recipe.data.check_workers,
            catalog=catalog,
            cache=job.url_cache,
            may_leave_none=True,
        )
        catalog.finish()
    store = _open_store(job, kind)
    done = _build(job, store, checked.facts, share=f"{share.number}-of-{share.total}.")
    bad = f"; {len(checked.quarantined)} rows whose clip does not decode" if checked.quarantined else ""
    return f"share {share}: {done}{bad}"


def _find_kind(job: Job) -> Kind:
    """Returns what the recipe lets be kept: features where they may be, else pixels; refuses one that keeps nothing."""
    if job.recipe.video.cache_features == "off":
        need, hint = "a recipe that keeps something of clips", "remove `video.cache_features`"
        raise RecipeError(f"recipe {job.recipe.name}", [Problem("video.cache_features", "`off`", need, hint)])
    return "features" if job.may_cache_features else "pixels"


def _choose_kind(job: Job, rows: RowFacts) -> Kind:
    """Decides as the training will where clips come twice; features that have to be proven by then are taken to be."""
    decision = choose_kind(job, count_bytes(job, rows), proof=AS_IF_CACHED)
    if decision.kind is None:
        need, hint = f"`on` or `pixels`: {decision.why}", "or raise `video.cache_limit_gb`"
        raise RecipeError(f"recipe {job.recipe.name}", [Problem("video.cache_features", "`auto`", need, hint)])
    return decision.kind


def _open_store(job: Job, kind: Kind) -> FeatureStore:
    return FeatureStore(job.features_root, job.feature_key if kind == "features" else job.pixel_key)


def _build(job: Job, store: FeatureStore, clips: Mapping[ClipRef, ClipInfo], *, share: str) -> str:
    """Makes what a store lacks, and says of how many clips."""
    records = {clip: ClipRecord(facts.sha256, facts.view) for clip, facts in clips.items()}
    source = BuildSource(
        load_runtime(job.family),
        job.model.folder,
        job.preprocessing,
        dtype=job.recipe.model.dtype,
        device=job.ranks.device,
    )
    with store.build_lock(share=share):
        missing = missing_clips(store, records)
        with tqdm(
            total=len(missing), desc=f"{store.key.made[:-2]}ing", unit="clip", file=sys.stderr, dynamic_ncols=True
        ) as bar:
            build_store(store, missing, records=records, source=source, on_progress=bar.update)
    num_clips = len({content_of(clip, record.sha256) for clip, record in records.items()})
    there, size = num_clips - len(missing), f"{store.num_bytes()} bytes in {store.folder}"
    return f"{len(missing)} clips {store.key.made}, {there} were there; {size}"
