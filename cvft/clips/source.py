"""Where a clip's inputs come from: the decoder, or a store of features or pixels.

DecodedClips   clip -> frames -> the encoder's pixel values
PixelClips     clip -> what its content is told by -> frames as they are kept -> the same pixel values
CachedClips    clip -> what its content is told by -> vision_features, as the tower computed them
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from cvft.data.features.shard import Feature
from cvft.data.features.store import FeatureStore
from cvft.data.records import ClipRecord
from cvft.data.video.decode import Clip
from cvft.data.video.loader import DEFAULT_CACHE_BYTES, ClipLoader, DecodeSettings, RecentClips
from cvft.data.video.sample import coverage
from cvft.data.video.spec import ClipRef, content_of, sampling_for
from cvft.data.video.view import ClipView
from cvft.dtypes import STORED
from cvft.families.runtime import Encoder


@dataclass(frozen=True)
class ClipInputs:
    """One clip as the encoder takes it.

    Args:
        tensors: Pixel values or `vision_features`, by the model's names.
        view: Which frames are shown, and when.
        cut: What of the clip is not shown, in a sentence, where it was decoded; empty when all is.
    """

    tensors: Mapping[str, Tensor]
    view: ClipView
    cut: str = ""

    @property
    def num_bytes(self) -> int:
        """What its tensors take."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


class ClipSource(Protocol):
    """Clip in, inputs out."""

    cut: dict[ClipRef, str]
    """What is not shown of clips that were asked for, in a sentence each, where it is known."""

    def load(self, clip: ClipRef) -> ClipInputs:
        """Returns one clip's inputs.

        Raises:
            CvftError: when it cannot be had.
        """

    def close(self) -> None:
        """Ends what runs beside; it starts again when it is needed."""


class DecodedClips:
    """Decodes clips in a process of their own, and keeps pixel values as long as there is room.

    Args:
        encoder: Turns frames into pixel values.
        settings: How to decode.
        cache_bytes: Most bytes of pixel values kept; 0 keeps those of the last clip alone.
    """

    def __init__(self, encoder: Encoder, settings: DecodeSettings, *, cache_bytes: int = DEFAULT_CACHE_BYTES) -> None:
        def prepare(clip: ClipRef, decoded: Clip) -> ClipInputs:
            seen = coverage(
                decoded.frame_indices,
                num_frames_total=decoded.num_frames_total,
                avg_fps=decoded.avg_fps,
                duration_s=decoded.duration_s,
                sampling=sampling_for(clip, settings.sampling),
            )
            cut = seen.notes[0] if seen.cut_s > 0 else ""
            return ClipInputs(encoder.clip(decoded), decoded.view, cut)

        self.cut: dict[ClipRef, str] = {}
        self._loader: ClipLoader[ClipInputs] = ClipLoader(
            settings,
            prepare=prepare,
            num_bytes=lambda clip: clip.num_bytes,
            cache_bytes=cache_bytes,
        )

    def load(self, clip: ClipRef) -> ClipInputs:
        """Returns pixel values."""
        loaded = self._loader.load(clip)
        if loaded.cut:
            self.cut[clip] = loaded.cut
        return loaded

    def close(self) -> None:
        """Ends the decode process."""
        self._loader.close()


class CachedClips:
    """Reads features from a store; neither decoder nor tower is needed.

    Args:
        store: The store, in which every clip of `records` is.
        records: What is known of each clip.
    """

    def __init__(self, store: FeatureStore, records: Mapping[ClipRef, ClipRecord]) -> None:
        self.cut: dict[ClipRef, str] = {}
        self._store = store
        self._records = records

    def load(self, clip: ClipRef) -> ClipInputs:
        """Returns vision features."""
        record = self._records[clip]
        feature = self._store.read_checked(content_of(clip, record.sha256))
        return ClipInputs({"vision_features": to_tensor(feature)}, record.view)

    def close(self) -> None:
        """Nothing runs beside."""


@dataclass(frozen=True)
class KeptClip:
    """Frames as they are kept; see `cvft.families.runtime.ShownFrames`.

    Args:
        frames: (T, h, w, 3) uint8 RGB.
        view: Which frames they are, and how large they were when they were decoded.
    """

    frames: np.ndarray
    view: ClipView


class PixelClips:
    """Reads pixels from a store: nothing is decoded, and the tower gets the bits that it gets of a decoded clip.

    Args:
        store: The store, in which every clip of `records` is.
        records: What is known of each clip.
        encoder: Turns frames into pixel values.
        cache_bytes: Most bytes of pixel values kept; 0 keeps those of the last clip alone.
    """

    def __init__(
        self,
        store: FeatureStore,
        records: Mapping[ClipRef, ClipRecord],
        encoder: Encoder,
        *,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
    ) -> None:
        self.cut: dict[ClipRef, str] = {}
        self._store = store
        self._records = records
        self._encoder = encoder
        self._recent = RecentClips(self._read, num_bytes=lambda clip: clip.num_bytes, cache_bytes=cache_bytes)

    def load(self, clip: ClipRef) -> ClipInputs:
        """Returns pixel values."""
        return self._recent.load(clip)

    def _read(self, clip: ClipRef) -> ClipInputs:
        record = self._records[clip]
        kept = to_tensor(self._store.read_checked(content_of(clip, record.sha256)))
        return ClipInputs(self._encoder.clip(KeptClip(kept.numpy(), record.view)), record.view)

    def close(self) -> None:
        """Nothing runs beside."""


def open_store(
    store: FeatureStore,
    records: Mapping[ClipRef, ClipRecord],
    encoder: Encoder,
    *,
    cache_bytes: int = DEFAULT_CACHE_BYTES,
) -> ClipSource:
    """Returns what reads a store of either kind, in which every clip of the records is; see `PixelClips` for the arguments."""
    if store.key.kind == "features":
        return CachedClips(store, records)
    return PixelClips(store, records, encoder, cache_bytes=cache_bytes)


def to_tensor(feature: Feature) -> Tensor:
    """Copies a stored feature into a tensor of its own."""
    dtype = getattr(torch, STORED[feature.dtype].torch_name)
    return torch.frombuffer(bytearray(feature.data), dtype=dtype).view(feature.shape)
