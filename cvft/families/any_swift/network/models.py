"""transformers' own classes, called as cvft trains, for models whose inputs ms-swift makes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
import transformers
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from cvft.families.any_swift.models import SwiftModel
from cvft.families.network.attention import GroupLengths
from cvft.families.network.scoring import LabelScoring, scoring

TILES_DIM = 3
"""Dimensions of features that transformers keeps by tiles."""


class SwiftScoring(LabelScoring):
    """What is known of these models in common."""

    nothing: Mapping[str, Tensor]
    """Inputs of the smallest clip, as the template makes them."""

    def encode_nothing(self) -> Tensor:
        """Runs tower and projector on one black frame."""
        return encode_frames(self.model, self.nothing)

    def features_as_outputs(self, features: Tensor) -> dict[str, Any]:
        """Returns features as transformers' encoder would: of tiles (n, N, H) as they are, of frames (N, H) in a list."""
        pooled: Any = features if features.dim() == TILES_DIM else [features]
        return {"image": BaseModelOutputWithPooling(pooler_output=cast(Any, pooled))}

    def _validate_model_kwargs(self, model_kwargs: dict[str, Any]) -> None:
        """Lets all names through: transformers would look for those of pixels in the signature of `forward`, which is ours."""

    def _attention(
        self, attention_mask: Tensor | None, segment_ids: Tensor | None, group_lengths: GroupLengths | None
    ) -> dict[str, Any]:
        """Leaves a batch of single rows to transformers: its masks are the model's own, whatever they are."""
        if group_lengths is None or not any(questions for _, questions in group_lengths):
            return {"attention_mask": attention_mask}
        return super()._attention(attention_mask, segment_ids, group_lengths)


def encode_frames(model: Any, pixels: Mapping[str, Tensor]) -> Tensor:
    """Encodes the frames of one clip.

    Args:
        model: transformers' model, of which the decoder may be left out.
        pixels: What `RowEncoder.pixels` makes of them.

    Returns:
        (n, N, H) for n tiles where each has as many tokens; or (N, H) for all frames, one after the other.
    """
    inputs = {name: value.to(model.device) for name, value in pixels.items()}
    pooled = model.get_image_features(**inputs, return_dict=True).pooler_output
    return pooled if isinstance(pooled, Tensor) else torch.cat(list(pooled))


def classes_of(model: SwiftModel) -> tuple[Any, Any]:
    """Returns transformers' class of a model, and the same with `LabelScoring`.

    Args:
        model: Which one.
    """
    stock = getattr(transformers, model.architecture)
    return stock, scoring(stock, SwiftScoring)
