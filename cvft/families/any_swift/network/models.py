"""transformers' own classes, called as cvft trains, for models whose inputs ms-swift makes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import transformers
from torch import Tensor

from cvft.families.any_swift.models import SwiftModel
from cvft.families.network.attention import GroupLengths
from cvft.families.network.scoring import LabelScoring, scoring


class SwiftScoring(LabelScoring):
    """What is known of these models in common."""

    nothing: Mapping[str, Tensor]
    """Inputs of the smallest clip, as the template makes them."""

    def encode_nothing(self) -> Tensor:
        """Runs tower and projector on one black frame."""
        device = self.lm_head.weight.device
        inputs = {name: value.to(device) for name, value in self.nothing.items()}
        features = self.model.get_image_features(**inputs, return_dict=True).pooler_output
        total: Tensor = features.sum() if isinstance(features, Tensor) else sum(each.sum() for each in features)
        return total

    def _validate_model_kwargs(self, model_kwargs: dict[str, Any]) -> None:
        """Lets all names through: transformers would look for those of pixels in the signature of `forward`, which is ours."""

    def _attention(
        self, attention_mask: Tensor | None, segment_ids: Tensor | None, group_lengths: GroupLengths | None
    ) -> dict[str, Any]:
        """Leaves a batch of single rows to transformers: its masks are the model's own, whatever they are."""
        if group_lengths is None or not any(questions for _, questions in group_lengths):
            return {"attention_mask": attention_mask}
        return super()._attention(attention_mask, segment_ids, group_lengths)


def classes_of(model: SwiftModel) -> tuple[Any, Any]:
    """Returns transformers' class of a model, and the same with `LabelScoring`.

    Args:
        model: Which one.
    """
    stock = getattr(transformers, model.architecture)
    return stock, scoring(stock, SwiftScoring)
