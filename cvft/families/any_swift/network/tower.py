"""What stands before the decoder of a model, alone: for features to cache.

frames (T, H, W, 3) -> ms-swift's template -> pixels -> transformers' `get_image_features` -> features
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from cvft.families.any_swift.network.encoder import FRAMES, RowEncoder
from cvft.families.any_swift.network.models import encode_frames


class ClipTower:
    """Encodes clips for the store of features; see `cvft.families.runtime.Tower`.

    Args:
        tower: transformers' model without its decoder, frozen.
        encoder: What makes pixels.
    """

    def __init__(self, tower: Any, encoder: RowEncoder) -> None:
        self.tower = tower
        self.encoder = encoder

    def __call__(self, clip: Mapping[str, Tensor]) -> Tensor:
        """Turns frames into features, all in one tensor."""
        return encode_frames(self.tower, self.encoder.pixels(clip[FRAMES])).cpu()
