"""Vision features of a run: built by its ranks before training, or ahead of it, and read by training and evaluation.

plan with a key -> clips that the store lacks, shared out to the ranks -> `cvft.clips.build` -> `CachedClips`
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from cvft.data.features.store import FeatureStore
from cvft.data.video.loader import DecodeSettings
from cvft.errors import Problem, RecipeError, quote
from cvft.families.contract import Contract
from cvft.plan.batching import features_root
from cvft.plan.machine import count_gpus
from cvft.plan.plan import Plan
from cvft.plan.prepare import Prepared, find_model, inspect_model, make_feature_key, prepare
from cvft.plan.ranks import decide_ranks
from cvft.recipe import LoadedRecipe, Recipe
from cvft.runs import RunFolder

if TYPE_CHECKING:
    from cvft.clips.source import CachedClips, ClipRecord

POLL_S = 0.2
"""Seconds between two looks at what the other ranks have built."""


def read_records(folder: RunFolder) -> dict[Path, ClipRecord]:
    """Reads hash and frame seconds of each clip of a run."""
    from cvft.clips.source import ClipRecord

    records = json.loads(folder.clip_records.read_text(encoding="utf-8"))
    return {Path(path): ClipRecord(sha256, tuple(seconds)) for path, (sha256, seconds) in records.items()}


def provide_features(
    plan: Plan, *, rank: int, device: str, tell: Callable[[int, int], object], must_stop: Callable[[], bool]
) -> CachedClips | None:
    """Builds what the store lacks, together with the other ranks; called by each worker before it trains.

    Args:
        plan: The plan, with a key of features.
        rank: This rank.
        device: Where this rank computes.
        tell: Called with the clips that this rank has encoded and has to encode.
        must_stop: Asked now and then.

    Returns:
        Every clip's features; None when it was asked to stop before they were there.

    Raises:
        CvftError: when a clip cannot be decoded or the store cannot be written.
    """
    from cvft.clips.build import build_features, missing_clips
    from cvft.clips.source import CachedClips

    assert plan.features is not None
    records = read_records(RunFolder(plan.run_dir))
    store = FeatureStore(plan.features_root, plan.features)
    # several ranks share the work; of several runs, one does it and the others wait
    alone = plan.num_ranks == 1 and missing_clips(store, records)
    with store.build_lock() if alone else contextlib.nullcontext():
        mine = missing_clips(store, share_of(records, rank=rank, num_ranks=plan.num_ranks))
        bar = _Counter(len(mine), tell)
        build_features(
            store,
            mine,
            records=records,
            model_folder=plan.model_view,
            decode=plan.decode,
            device=device,
            on_progress=bar.update,
            must_stop=must_stop,
        )
    while missing_clips(store, records):
        if must_stop():
            return None
        time.sleep(POLL_S)
    return CachedClips(store, records)


def share_of(records: Mapping[Path, ClipRecord], *, rank: int, num_ranks: int) -> dict[Path, ClipRecord]:
    """Returns the clips that one rank encodes.

    It depends on the clips alone, not on what the store lacks: a rank that starts late finds less missing than the others did,
    and a share of that would leave clips that nobody encodes.

    Args:
        records: All clips.
        rank: The rank.
        num_ranks: Number of ranks.
    """
    mine = set(sorted({record.sha256 for record in records.values()})[rank::num_ranks])
    return {path: record for path, record in records.items() if record.sha256 in mine}


def mend_store(store: FeatureStore, *, reads_all: bool = False) -> None:
    """Removes damaged shards, and says so: their clips are encoded again.

    Args:
        store: The store.
        reads_all: Whether to compare every byte with its checksum; otherwise only the files' sizes and headers.
    """
    damage = [*store.check(), *(store.verify() if reads_all else [])]
    for item in {item.shard: item for item in damage}.values():
        print(f"features  {item.shard}: {item.reason}; its clips are encoded again", file=sys.stderr)
    store.drop_damaged(damage)


def build_ahead(loaded: LoadedRecipe) -> str:
    """Checks a recipe's clips and encodes those that the store lacks, in this process.

    Args:
        loaded: The recipe.

    Returns:
        What was done, for the terminal.

    Raises:
        CvftError: when recipe, rows, clips or model do not allow it.
    """
    from cvft.clips.build import build_features, missing_clips
    from cvft.clips.source import ClipRecord

    recipe = loaded.recipe
    if recipe.lora.train_vision_tower or recipe.video.cache_features == "off":
        key = "lora.train_vision_tower" if recipe.lora.train_vision_tower else "video.cache_features"
        value = "true" if recipe.lora.train_vision_tower else "off"
        problem = Problem(key, quote(value), "a recipe whose features are kept", f"remove `{key}`")
        raise RecipeError(f"recipe {recipe.name}", [problem])
    device = decide_ranks(recipe, num_gpus_present=count_gpus()).device
    quarantine = recipe.run_dir.with_name(f".{recipe.run_dir.name}.quarantine.jsonl")
    prepared = prepare(recipe, quarantine_file=quarantine)
    quarantine.unlink(missing_ok=True)  # told again by the training, which keeps it
    store = _open_store(recipe, contract=prepared.contract, device=device)
    mend_store(store, reads_all=True)
    records = {path: ClipRecord(info.sha256, info.timestamps_s) for path, info in prepared.clips.items()}
    with store.build_lock():
        missing = missing_clips(store, records)
        with tqdm(total=len(missing), desc="encoding", unit="clip", file=sys.stderr, dynamic_ncols=True) as bar:
            build_features(
                store,
                missing,
                records=records,
                model_folder=prepared.model.path,
                decode=_decode_settings(recipe, prepared),
                device=device,
                on_progress=bar.update,
            )
    num_clips = len({record.sha256 for record in records.values()})
    return f"{len(missing)} clips encoded, {num_clips - len(missing)} were there; {store.num_bytes()} bytes in {store.folder}"


def find_features(recipe: Recipe, folder: RunFolder, *, contract: Contract, device: str) -> CachedClips | None:
    """Returns a run's features for evaluation, or None when they are not all there.

    Args:
        recipe: The recipe of the run.
        folder: The run's folder.
        contract: How clips reached the model in training.
        device: Where evaluation computes.
    """
    from cvft.clips.build import missing_clips
    from cvft.clips.source import CachedClips

    if recipe.lora.train_vision_tower or recipe.video.cache_features == "off" or not folder.clip_records.is_file():
        return None
    records = read_records(folder)
    store = _open_store(recipe, contract=contract, device=device)
    return None if not records or missing_clips(store, records) else CachedClips(store, records)


def _open_store(recipe: Recipe, *, contract: Contract, device: str) -> FeatureStore:
    model = inspect_model(find_model(recipe).folder)
    key = make_feature_key(recipe, contract=contract, model=model, device=device)
    return FeatureStore(features_root(recipe), key)


def _decode_settings(recipe: Recipe, prepared: Prepared) -> DecodeSettings:
    return DecodeSettings.of(
        prepared.feeding.sampling,
        max_frames=prepared.feeding.max_frames,
        decoder=recipe.video.decoder,
        timeout_s=recipe.video.timeout_s,
        memory_gib=recipe.video.memory_gib,
    )


class _Counter:
    """Turns clips done one by one into how many of how many."""

    def __init__(self, total: int, tell: Callable[[int, int], object]) -> None:
        self.done, self.total, self.tell = 0, total, tell
        tell(0, total)

    def update(self, count: int) -> None:
        self.done += count
        self.tell(self.done, self.total)
