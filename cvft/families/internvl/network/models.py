"""transformers' own class of InternVL, called as cvft trains."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from transformers import InternVLForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutputWithPooling

from cvft.families.network.scoring import LabelScoring, scoring


class InternVLScoring(LabelScoring):
    """What is InternVL's own of scoring."""

    def encode_nothing(self) -> Tensor:
        """Runs the tower on a frame."""
        tower = self.model.vision_tower
        side, _ = tower.config.image_size
        return encode_clip(self.model, torch.zeros(1, tower.config.num_channels, side, side, device=tower.device))

    def features_as_outputs(self, features: Tensor) -> dict[str, Any]:
        """Returns features (T, N, H) as transformers' encoder would return them."""
        return {"image": BaseModelOutputWithPooling(pooler_output=cast(Any, features))}


def encode_clip(model: Any, pixels: Tensor) -> Tensor:
    """Encodes frames.

    Args:
        model: What has `get_image_features`.
        pixels: (T, 3, side, side).

    Returns:
        (T, N, H): what stands for the tokens of each frame.
    """
    features: Tensor = model.get_image_features(pixels, return_dict=True).pooler_output
    return features


CLASS = scoring(InternVLForConditionalGeneration, InternVLScoring)
