"""`cvft features`: every clip of a recipe encoded once, ahead of training, in this process."""

from __future__ import annotations

import sys

from tqdm import tqdm

from cvft.clips.build import TowerSource, build_features, missing_clips
from cvft.data.features.repair import repair_store
from cvft.data.features.store import FeatureStore
from cvft.data.records import ClipRecord
from cvft.data.video.spec import content_of
from cvft.errors import Problem, RecipeError, quote
from cvft.families.family import load_runtime
from cvft.plan.job import Job
from cvft.plan.prepare import prepare


def build_ahead(job: Job) -> str:
    """Checks a recipe's clips and encodes those that the store lacks.

    Args:
        job: The job.

    Returns:
        What was done, for the terminal.

    Raises:
        CvftError: when recipe, rows, clips or model do not allow it.
    """
    recipe = job.recipe
    if key := job.forbids_features:
        section, _, name = key.partition(".")
        value = recipe.to_dict()[section][name]
        got = quote(str(value).lower() if isinstance(value, bool) else str(value))
        hint = f"{job.family.title} trains without" if key == "model.path" else f"remove `{key}`"
        problem = Problem(key, got, "a recipe whose features are cached", hint)
        raise RecipeError(f"recipe {recipe.name}", [problem])
    prepared = prepare(job)  # the training reports rows that are set aside, and keeps their list
    store = FeatureStore(job.features_root, job.feature_key)
    repair_store(store, reads_all=True)
    records = {clip: ClipRecord(facts.sha256, facts.view) for clip, facts in prepared.clips.items()}
    source = TowerSource(
        load_runtime(job.family), job.model.folder, job.preprocessing, dtype=recipe.model.dtype, device=job.ranks.device
    )
    with store.build_lock():
        missing = missing_clips(store, records)
        with tqdm(total=len(missing), desc="encoding", unit="clip", file=sys.stderr, dynamic_ncols=True) as bar:
            build_features(store, missing, records=records, source=source, on_progress=bar.update)
    num_clips = len({content_of(clip, record.sha256) for clip, record in records.items()})
    return f"{len(missing)} clips encoded, {num_clips - len(missing)} were there; {store.num_bytes()} bytes in {store.folder}"
