"""transformers' own classes, called as cvft trains: groups of rows, cached features, logits of label tokens alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import (
    PreTrainedModel,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3_5ForConditionalGeneration,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMoeForConditionalGeneration,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling, CausalLMOutputWithPast
from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

from cvft.families.family import IGNORED_LABEL
from cvft.families.network.attention import GROUP_ATTENTION, GroupLengths
from cvft.families.network.grouping import group_attention_mask
from cvft.families.network.loss import label_loss
from cvft.families.qwen_vl.sizes import QWEN2_5_VL, QWEN3_5, QWEN3_VL, QWEN3_VL_MOE

SMALLEST_GRID = (1, 2, 2)
"""Patches of the smallest clip: one token."""


@dataclass
class ScoredOutput(CausalLMOutputWithPast):
    """What a training batch says.

    Args:
        num_right: Number of label tokens that are the likeliest ones.
    """

    num_right: Tensor | None = None


class LabelScoring:
    """Answers training batches; everything else is transformers'. Stands before one of its classes."""

    runs_tower_always = False
    """Whether a batch without a clip passes through the tower too, so that all ranks do."""

    config: Any
    model: Any
    lm_head: Any

    def forward(
        self,
        input_ids: Tensor | None = None,
        labels: Tensor | None = None,
        position_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        segment_ids: Tensor | None = None,
        group_lengths: GroupLengths | None = None,
        vision_features: Tensor | None = None,
        label_logits_only: bool = True,
        num_items_in_batch: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Scores a batch with labels, or calls transformers' own forward.

        Args:
            input_ids: (B, L) token ids.
            labels: (B, L) ids to predict, -100 for none; None for transformers' own forward, which takes the rest as it does.
            position_ids: (B, L, 3) rotary positions of a batch with labels; (3, B, L) without.
            attention_mask: (B, L) 0 for padding.
            segment_ids: (B, L) 0 for a prefix that several questions share, n for the n-th of them, -1 for padding.
            group_lengths: The same as lengths.
            vision_features: (1 + levels, N, H) what the tower made of all clips, in place of their pixels.
            label_logits_only: Whether to compute the logits of the label tokens only.
            num_items_in_batch: Number of label tokens of the whole step; None divides by this batch's own.
            kwargs: Pixels of the clips, and what transformers takes besides.
        """
        kwargs = {key: value for key, value in kwargs.items() if value is not None}
        if vision_features is not None:
            kwargs["mm_encoder_outputs"] = {"video": as_encoder_output(vision_features)}
        if labels is None:
            return cast(Any, super()).forward(
                input_ids=input_ids, position_ids=position_ids, attention_mask=attention_mask, **kwargs
            )
        assert input_ids is not None, "labels go with ids"
        assert position_ids is not None, "never left to the model: its rule is not the one that was chosen"
        if self.runs_tower_always and vision_features is None and "pixel_values_videos" not in kwargs:
            kwargs["inputs_embeds"] = self.model.get_input_embeddings()(input_ids) + self._run_tower_on_nothing()
        else:
            kwargs["input_ids"] = input_ids
        outputs = self.model(
            position_ids=position_ids.permute(2, 0, 1),
            use_cache=False,
            **self._attention(attention_mask, segment_ids, group_lengths),
            **kwargs,
        )
        states = outputs.last_hidden_state
        num_items = (labels[:, 1:] != IGNORED_LABEL).sum() if num_items_in_batch is None else num_items_in_batch
        if label_logits_only:
            nll, num_right = label_loss(states, labels=labels, lm_head=self.lm_head)
            return ScoredOutput(loss=nll / num_items, num_right=num_right)
        logits = self.lm_head(states)[:, :-1].float().flatten(0, 1)
        nll = F.cross_entropy(logits, labels[:, 1:].flatten(), ignore_index=IGNORED_LABEL, reduction="sum")
        right = (logits.argmax(-1) == labels[:, 1:].flatten()).sum()
        return ScoredOutput(loss=nll / num_items, num_right=right)

    def _attention(
        self, attention_mask: Tensor | None, segment_ids: Tensor | None, group_lengths: GroupLengths | None
    ) -> dict[str, Any]:
        """Says who sees whom, as the decoder's attention takes it."""
        name = self.model.language_model.config._attn_implementation
        if name == GROUP_ATTENTION:
            # a mask of four dimensions is handed on as it is, and this one is not looked at
            nothing = torch.empty((1, 1, 1, 1), device=self.lm_head.weight.device)
            return {"attention_mask": nothing, "group_lengths": group_lengths}
        if segment_ids is not None:
            dtype = self.lm_head.weight.dtype if name == "eager" else None
            mask = group_attention_mask(segment_ids, additive_dtype=dtype)
            return {"attention_mask": mask, "group_lengths": group_lengths}  # recurrent layers take no mask
        return {"attention_mask": attention_mask}

    def _run_tower_on_nothing(self) -> Tensor:
        """Returns 0, with a gradient of 0 for every weight of the tower."""
        tower = self.model.visual
        grid = torch.tensor([SMALLEST_GRID], device=tower.device)
        vision = tower.config
        width = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        pixels = torch.zeros(SMALLEST_GRID[1] * SMALLEST_GRID[2], width, device=tower.device)
        return encode_clip(self.model, pixels, grid).sum() * 0.0


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


def as_encoder_output(features: Tensor) -> Any:
    """Returns cached features as transformers' encoders would return them.

    Args:
        features: (1 + levels, N, H).
    """
    first, *deep = features.unbind()
    if not deep:
        return BaseModelOutputWithPooling(pooler_output=cast(Any, [first]))
    return BaseModelOutputWithDeepstackFeatures(
        pooler_output=cast(Any, [first]), deepstack_features=cast(Any, [[level] for level in deep])
    )


def _scoring(base: type[PreTrainedModel]) -> type[PreTrainedModel]:
    return type(base.__name__, (LabelScoring, base), {"__module__": __name__})


STOCK: dict[str, type[PreTrainedModel]] = {
    QWEN2_5_VL: Qwen2_5_VLForConditionalGeneration,
    QWEN3_VL: Qwen3VLForConditionalGeneration,
    QWEN3_VL_MOE: Qwen3VLMoeForConditionalGeneration,
    QWEN3_5: Qwen3_5ForConditionalGeneration,
}
CLASSES = {model_type: _scoring(base) for model_type, base in STOCK.items()}
"""The same with `LabelScoring`. A model is loaded as one of `STOCK` and then becomes one of these: transformers converts names of
weights for its own classes alone."""


def attend_in_groups(model: Any, names: Sequence[str] = ("sdpa",)) -> None:
    """Gives a model's decoder the attention of groups, where it has a kernel that this one stands for.

    Args:
        model: A loaded model; its tower keeps its own.
        names: Kernels to replace.
    """
    config = model.model.language_model.config
    if config._attn_implementation in names:
        config._attn_implementation = GROUP_ATTENTION
