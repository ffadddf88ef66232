"""transformers' own classes of Qwen's video models, called as cvft trains."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor
from transformers import (
    PreTrainedModel,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3_5ForConditionalGeneration,
    Qwen3_5MoeForConditionalGeneration,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMoeForConditionalGeneration,
)
from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

from cvft.families.network.grid_scoring import GridScoring
from cvft.families.network.scoring import scoring
from cvft.families.qwen_vl.sizes import QWEN2_5_VL, QWEN3_5, QWEN3_5_MOE, QWEN3_VL, QWEN3_VL_MOE


class QwenScoring(GridScoring):
    """What is Qwen's own of scoring: deeper levels."""

    def features_as_outputs(self, features: Tensor) -> dict[str, Any]:
        """Returns features (1 + levels, N, H) as transformers' encoders would return them."""
        first, *deep = features.unbind()
        if not deep:
            return super().features_as_outputs(features)
        levels = cast(Any, [[level] for level in deep])
        return {
            "video": BaseModelOutputWithDeepstackFeatures(pooler_output=cast(Any, [first]), deepstack_features=levels)
        }


STOCK: dict[str, type[PreTrainedModel]] = {
    QWEN2_5_VL: Qwen2_5_VLForConditionalGeneration,
    QWEN3_VL: Qwen3VLForConditionalGeneration,
    QWEN3_VL_MOE: Qwen3VLMoeForConditionalGeneration,
    QWEN3_5: Qwen3_5ForConditionalGeneration,
    QWEN3_5_MOE: Qwen3_5MoeForConditionalGeneration,
}
CLASSES = {model_type: scoring(base, QwenScoring) for model_type, base in STOCK.items()}
"""Both by `model_type`."""
