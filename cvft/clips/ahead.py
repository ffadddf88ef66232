"""`cvft features`: every clip of a recipe, or a share of them, encoded once, ahead of training, in this process."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from tqdm import tqdm

from cvft.clips.build import TowerSource, build_features, missing_clips
from cvft.data.catalog import ClipCatalog
from cvft.data.check import check_clips
from cvft.data.features.repair import repair_store
from cvft.data.features.store import FeatureStore
from cvft.data.records import ClipRecord
from cvft.data.shares import Share, take_share
from cvft.data.video.process import ClipInfo
from cvft.data.video.spec import ClipRef, content_of
from cvft.errors import Problem, RecipeError, quote
from cvft.families.family import load_runtime
from cvft.plan.datasets import bring_datasets
from cvft.plan.job import Job
from cvft.plan.prepare import prepare, read_sources


def build_ahead(job: Job) -> str:
    """Checks a recipe's clips and encodes those that the store lacks.

    Args:
        job: The job.

    Returns:
        What was done, for the terminal.

    Raises:
        CvftError: when recipe, rows, clips or model do not allow it.
    """
    _check_cached(job)
    prepared = prepare(job)  # the training reports rows that are set aside, and keeps their list
    store = FeatureStore(job.features_root, job.feature_key)
    repair_store(store, reads_all=True)
    return _build(job, store, prepared.clips, share="")


def build_share(job: Job, share: Share) -> str:
    """Checks a share of a recipe's clips, and encodes those that the store lacks, while others do other shares.

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
    _check_cached(job)
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
    store = FeatureStore(job.features_root, job.feature_key)
    done = _build(job, store, checked.facts, share=f"{share.number}-of-{share.total}.")
    bad = f"; {len(checked.quarantined)} rows whose clip does not decode" if checked.quarantined else ""
    return f"share {share}: {done}{bad}"


def _check_cached(job: Job) -> None:
    recipe = job.recipe
    if key := job.forbids_features:
        section, _, name = key.partition(".")
        value = recipe.to_dict()[section][name]
        got = quote(str(value).lower() if isinstance(value, bool) else str(value))
        hint = f"{job.family.title} trains without" if key == "model.path" else f"remove `{key}`"
        problem = Problem(key, got, "a recipe whose features are cached", hint)
        raise RecipeError(f"recipe {recipe.name}", [problem])


def _build(job: Job, store: FeatureStore, clips: Mapping[ClipRef, ClipInfo], *, share: str) -> str:
    """Encodes the clips that a store lacks, and says how many."""
    records = {clip: ClipRecord(facts.sha256, facts.view) for clip, facts in clips.items()}
    source = TowerSource(
        load_runtime(job.family),
        job.model.folder,
        job.preprocessing,
        dtype=job.recipe.model.dtype,
        device=job.ranks.device,
    )
    with store.build_lock(share=share):
        missing = missing_clips(store, records)
        with tqdm(total=len(missing), desc="encoding", unit="clip", file=sys.stderr, dynamic_ncols=True) as bar:
            build_features(store, missing, records=records, source=source, on_progress=bar.update)
    num_clips = len({content_of(clip, record.sha256) for clip, record in records.items()})
    return f"{len(missing)} clips encoded, {num_clips - len(missing)} were there; {store.num_bytes()} bytes in {store.folder}"
