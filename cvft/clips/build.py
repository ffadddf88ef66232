"""Fills a store: every clip that it lacks is decoded, and of it features or pixels are kept, once.

clip -> frames (T, H, W, 3) -> what decides the model's input: (T, h, w, 3) uint8 -> store of pixels
clip -> frames -> pixel_values (F, 3, S, S) -> tower, one clip per call -> features (F, P/4, D) -> store of features
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

import torch
from torch import Tensor

from cvft.data.check import ask_processes
from cvft.data.features.key import FeatureKey
from cvft.data.features.store import FeatureStore
from cvft.data.records import ClipRecord
from cvft.data.video.decode import Clip
from cvft.data.video.process import DecodeProcess
from cvft.data.video.spec import ClipRef, content_of, file_of, files_of, hash_files
from cvft.errors import ClipError, Problem
from cvft.families.family import Preprocessing
from cvft.families.runtime import Runtime
from cvft.weights.folder import ModelFolder


@dataclass(frozen=True)
class BuildSource:
    """What features and pixels are made with.

    Args:
        runtime: Torch half of the model's family.
        folder: Folder with the tower's weights.
        how: How clips reach the tower.
        dtype: `bf16` or `fp32`, of the tower.
        device: Where the tower computes, such as `cpu` or `cuda:1`.
        num_workers: Decode processes at the same time; None takes as many as there are CPUs for.
    """

    runtime: Runtime
    folder: ModelFolder
    how: Preprocessing
    dtype: str
    device: str
    num_workers: int | None = None


def missing_clips(store: FeatureStore, records: Mapping[ClipRef, ClipRecord]) -> list[ClipRef]:
    """Returns each clip that the store lacks, under one of its names, in the order given."""
    contents = {clip: content_of(clip, record.sha256) for clip, record in records.items()}
    by_content = {content: clip for clip, content in reversed(contents.items())}
    return [by_content[content] for content in store.missing(contents.values())]


def build_store(
    store: FeatureStore,
    missing: Sequence[ClipRef],
    *,
    records: Mapping[ClipRef, ClipRecord],
    source: BuildSource,
    on_progress: Callable[[int], object] | None = None,
    must_stop: Callable[[], bool] = lambda: False,
) -> int:
    """Makes what a store lacks.

    Args:
        store: The store.
        missing: Clips that it lacks.
        records: What is known of each clip.
        source: What features or pixels are made with.
        on_progress: Called with 1 after each clip.
        must_stop: Asked before each clip; what was made until then is kept.

    Returns:
        How many clips were taken in.

    Raises:
        CvftError: when a clip cannot be decoded, or is another one by now, or when the store cannot be written.
    """
    if not missing:
        return 0
    prepare, finish = _make_steps(store.key, source)
    decode = source.how.decode

    def ask(process: DecodeProcess, clip: ClipRef) -> Mapping[str, Tensor]:
        path = file_of(clip)
        if hash_files(files_of(clip)) != records[clip].sha256:
            need, hint = "the clip that was checked before training", "run the same command again"
            raise ClipError(f"clip {path}", [Problem(str(path), "another file by now", need, hint)])
        return prepare(decode.decode(process, clip))

    num_built = 0
    answers = ask_processes(missing, ask, decode=decode, num_workers=source.num_workers)
    with store.writer() as writer, closing(answers), torch.inference_mode():
        for clip, prepared in answers:
            if isinstance(prepared, ClipError):
                raise prepared
            if must_stop():
                break
            made = finish(prepared).contiguous()
            # NumPy has no bf16: the bytes go by another name
            content, data = content_of(clip, records[clip].sha256), made.view(torch.uint8).numpy()
            writer.add(content, made.shape, store.key.dtype, data)
            num_built += 1
            if on_progress is not None:
                on_progress(1)
    return num_built


def _make_steps(
    key: FeatureKey, source: BuildSource
) -> tuple[Callable[[Clip], Mapping[str, Tensor]], Callable[[Mapping[str, Tensor]], Tensor]]:
    """Returns what is done with a decoded clip, beside others, and what is done with the outcome, one clip at a time."""
    encoder = source.runtime.encoder(source.folder, source.how)
    if key.kind == "pixels":
        return lambda clip: {"frames": torch.from_numpy(encoder.frames_to_keep(clip))}, lambda kept: kept["frames"]
    return encoder.clip, source.runtime.tower(source.folder, dtype=source.dtype, device=source.device)
