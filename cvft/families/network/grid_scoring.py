"""Scoring for classes of transformers whose tower takes patches and their grid, and whose positions have three coordinates."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from cvft.families.network.scoring import LabelScoring

SMALLEST_GRID = (1, 2, 2)
"""Patches of the smallest clip: one token."""


class GridScoring(LabelScoring):
    """What families share that take patches and their grid, and tell places by three coordinates."""

    def encode_nothing(self) -> Tensor:
        """Runs the tower on one token."""
        tower = self.model.visual
        grid = torch.tensor([SMALLEST_GRID], device=tower.device)
        vision = tower.config
        width = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        pixels = torch.zeros(SMALLEST_GRID[1] * SMALLEST_GRID[2], width, device=tower.device)
        return encode_clip(self.model, pixels, grid)

    def features_as_outputs(self, features: Tensor) -> dict[str, Any]:
        """Returns features (1, N, H) as transformers' encoders would return them."""
        return {"video": BaseModelOutputWithPooling(pooler_output=cast(Any, [features[0]]))}

    def image_features_as_outputs(self, features: Tensor) -> dict[str, Any]:
        """Returns features (1 + levels, N, H) as those of images: one tower makes both."""
        return {"image": self.features_as_outputs(features)["video"]}

    def order_positions(self, position_ids: Tensor) -> Tensor:
        """Puts the three coordinates first: (B, L, 3) to (3, B, L)."""
        return position_ids.permute(2, 0, 1)


def encode_clip(model: Any, pixels: Tensor, grid: Tensor) -> Tensor:
    """Encodes one clip.

    Args:
        model: What has `get_video_features`.
        pixels: (t·h·w, values) patches.
        grid: (1, 3) their grid.

    Returns:
        (1 + levels, N, H): what stands for the clip's tokens, and what is added to them in each of the first decoder layers.
    """
    output = model.get_video_features(pixels, grid, return_dict=True)
    deep = getattr(output, "deepstack_features", None) or []
    return torch.stack([torch.cat(list(clips)) for clips in (output.pooler_output, *deep)])
