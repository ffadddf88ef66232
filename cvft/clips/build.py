"""Builds features: every clip that the store lacks is decoded, preprocessed and encoded by the frozen tower, once.

clip -> pixel_values (F, 3, S, S) -> tower, one clip per call -> features (F, P/4, D) -> store
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from cvft.clips.source import DecodedClips
from cvft.data.features.store import FeatureStore
from cvft.data.records import ClipRecord
from cvft.data.video.spec import ClipRef, content_of, file_of, files_of, hash_files
from cvft.errors import ClipError, Problem
from cvft.families.family import Preprocessing, Runtime
from cvft.weights.folder import ModelFolder


@dataclass(frozen=True)
class TowerSource:
    """What encodes clips.

    Args:
        runtime: Torch half of the model's family.
        folder: Folder with the tower's weights.
        how: How clips reach the tower.
        dtype: `bf16` or `fp32`.
        device: Where to compute, such as `cpu` or `cuda:1`.
    """

    runtime: Runtime
    folder: ModelFolder
    how: Preprocessing
    dtype: str
    device: str


def missing_clips(store: FeatureStore, records: Mapping[ClipRef, ClipRecord]) -> list[ClipRef]:
    """Returns each clip whose features the store lacks, under one of its names, in the order given."""
    contents = {clip: content_of(clip, record.sha256) for clip, record in records.items()}
    by_content = {content: clip for clip, content in reversed(contents.items())}
    return [by_content[content] for content in store.missing(contents.values())]


def build_features(
    store: FeatureStore,
    missing: Sequence[ClipRef],
    *,
    records: Mapping[ClipRef, ClipRecord],
    source: TowerSource,
    on_progress: Callable[[int], object] | None = None,
    must_stop: Callable[[], bool] = lambda: False,
) -> int:
    """Encodes clips into a store.

    Args:
        store: The store.
        missing: Clips that it lacks.
        records: What is known of each clip.
        source: What encodes them.
        on_progress: Called with 1 after each clip.
        must_stop: Asked before each clip; what was encoded until then is kept.

    Returns:
        How many clips were encoded.

    Raises:
        CvftError: when a clip cannot be decoded, or is another one by now, or when the store cannot be written.
    """
    if not missing:
        return 0
    key = store.key
    tower = source.runtime.tower(source.folder, dtype=source.dtype, device=source.device)
    clips = DecodedClips(source.runtime.encoder(source.folder, source.how), source.how.decode, cache_bytes=0)
    num_built = 0
    with contextlib.closing(clips), store.writer() as writer, torch.inference_mode():
        for clip in missing:
            if must_stop():
                break
            path, sha256 = file_of(clip), records[clip].sha256
            if hash_files(files_of(clip)) != sha256:
                need, hint = "the clip that was checked before training", "run the same command again"
                raise ClipError(f"clip {path}", [Problem(str(path), "another file by now", need, hint)])
            features = tower(clips.load(clip).tensors).contiguous()
            # NumPy has no bf16: the bytes go by another name
            writer.add(content_of(clip, sha256), features.shape, key.dtype, features.view(torch.uint8).numpy())
            num_built += 1
            if on_progress is not None:
                on_progress(1)
    return num_built
