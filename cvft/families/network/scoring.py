"""Training batches scored by transformers' own classes: groups of rows, cached features, logits of label tokens alone."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from cvft.families.family import IGNORED_LABEL
from cvft.families.network.attention import GROUP_ATTENTION, GroupLengths
from cvft.families.network.grouping import group_attention_mask
from cvft.families.network.loss import label_loss
from cvft.families.runtime import LabelLoss


@dataclass
class ScoredOutput(CausalLMOutputWithPast):
    """What a training batch says.

    Args:
        num_right: Number of label tokens that are the likeliest ones.
    """

    num_right: Tensor | None = None


class LabelScoring:
    """Answers training batches; everything else is transformers'. Stands before one of its classes.

    A family says how its tower is run on nothing, how cached features are handed over and in which order positions come.
    """

    runs_tower_always = False
    """Whether a batch without a clip passes through the tower too, so that all ranks do."""

    config: Any
    model: Any
    lm_head: Any

    def encode_nothing(self) -> Tensor:
        """Returns the features of the smallest clip, all of whose pixels are 0."""
        raise NotImplementedError

    def features_as_outputs(self, features: Tensor) -> dict[str, Any]:
        """Returns cached features as `mm_encoder_outputs` of transformers."""
        raise NotImplementedError

    def image_features_as_outputs(self, features: Tensor) -> dict[str, Any]:
        """Returns cached features of pictures that are no clips as `mm_encoder_outputs` of transformers."""
        raise NotImplementedError

    def order_positions(self, position_ids: Tensor) -> Tensor:
        """Returns the positions of a batch as transformers takes them."""
        return position_ids

    def is_clip_input(self, name: str) -> bool:
        """Tells whether a keyword holds pixels."""
        return name.startswith("pixel_values")

    def forward(
        self,
        input_ids: Tensor | None = None,
        labels: Tensor | None = None,
        position_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        segment_ids: Tensor | None = None,
        group_lengths: GroupLengths | None = None,
        vision_features: Tensor | None = None,
        image_features: Tensor | None = None,
        label_logits_only: bool = True,
        num_items_in_batch: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Scores a batch with labels, or calls transformers' own forward.

        Args:
            input_ids: (B, L) token ids.
            labels: (B, L) ids to predict, -100 for none; None for transformers' own forward, which takes the rest as it does.
            position_ids: Positions as a family's encoder gives them for a batch with labels; as transformers has them without.
            attention_mask: (B, L) 0 for padding.
            segment_ids: (B, L) 0 for a prefix that several questions share, n for the n-th of them, -1 for padding.
            group_lengths: The same as lengths.
            vision_features: What the tower made of all clips, in place of their pixels.
            image_features: The same of all pictures that are no clips.
            label_logits_only: Whether to compute the logits of the label tokens only.
            num_items_in_batch: Number of label tokens of the whole step; None divides by this batch's own.
            kwargs: Pixels of the clips, and what transformers takes besides.
        """
        kwargs = {key: value for key, value in kwargs.items() if value is not None}
        cached: dict[str, Any] = {}
        if vision_features is not None:
            cached |= self.features_as_outputs(vision_features)
        if image_features is not None:
            cached |= self.image_features_as_outputs(image_features)
        if cached:
            kwargs["mm_encoder_outputs"] = cached
        if labels is None:
            return cast(Any, super()).forward(
                input_ids=input_ids, position_ids=position_ids, attention_mask=attention_mask, **kwargs
            )
        assert input_ids is not None, "labels go with ids"
        assert position_ids is not None, "never left to the model: its rule is not the one that was chosen"
        has_clip = bool(cached) or any(map(self.is_clip_input, kwargs))
        if self.runs_tower_always and not has_clip:
            kwargs["inputs_embeds"] = self.model.get_input_embeddings()(input_ids) + self.encode_nothing().sum() * 0.0
        else:
            kwargs["input_ids"] = input_ids
        outputs = self.model(
            position_ids=self.order_positions(position_ids),
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

    def enable_input_require_grads(self) -> None:
        """Makes the decoder's inputs leaves, for recomputation.

        transformers' own does it with the patches of some towers too: a frozen tower would then keep all of its activations and
        have a backward pass.
        """
        self._require_grads_hook = self.model.get_input_embeddings().register_forward_hook(
            lambda module, inputs, output: output.requires_grad_(True)
        )
        self._require_grads_hooks = [self._require_grads_hook]

    def _attention(
        self, attention_mask: Tensor | None, segment_ids: Tensor | None, group_lengths: GroupLengths | None
    ) -> dict[str, Any]:
        """Says who sees whom, as the decoder's attention takes it."""
        name = self.model.get_decoder().config._attn_implementation
        if name == GROUP_ATTENTION:
            # a mask of four dimensions is handed on as it is, and this one is not looked at
            nothing = torch.empty((1, 1, 1, 1), device=self.lm_head.weight.device)
            return {"attention_mask": nothing, "group_lengths": group_lengths}
        if segment_ids is not None:
            dtype = self.lm_head.weight.dtype if name == "eager" else None
            mask = group_attention_mask(segment_ids, additive_dtype=dtype)
            return {"attention_mask": mask, "group_lengths": group_lengths}  # a recurrent layer takes no mask
        return {"attention_mask": attention_mask}


def scoring(base: type[PreTrainedModel], hooks: type[LabelScoring]) -> type[PreTrainedModel]:
    """Returns a class of transformers with `LabelScoring` before it.

    A model is loaded as the class itself and then becomes this one: transformers converts names of weights for its own alone.

    Args:
        base: The class.
        hooks: What a family says to `LabelScoring`.
    """
    return type(base.__name__, (hooks, base), {"__module__": hooks.__module__})


def become(module: Any, cls: Any) -> None:
    """Makes a loaded module one of another class, whose forward it then has.

    Where accelerate has spread a model over devices, it has put a forward of its own before the one that the module had.

    Args:
        module: The module.
        cls: A class with the same weights.
    """
    module.__class__ = cls
    if "_old_forward" in vars(module):
        module._old_forward = types.MethodType(cls.forward, module)


def attend_in_groups(model: Any, names: Sequence[str] = ("sdpa",)) -> None:
    """Gives a model's decoder the attention of groups, where it has a kernel that this one stands for.

    Args:
        model: A loaded model; its tower keeps its own.
        names: Kernels to replace.
    """
    config = model.get_decoder().config
    if config._attn_implementation in names:
        config._attn_implementation = GROUP_ATTENTION


def batch_loss(model: Any, batch: Mapping[str, Any], *, num_items: Any, label_logits_only: bool) -> LabelLoss:
    """Runs a model with `LabelScoring` on a batch with labels; see `cvft.families.runtime.Runtime.loss`."""
    outputs = model(**batch, label_logits_only=label_logits_only, num_items_in_batch=num_items)
    return LabelLoss(outputs.loss, outputs.num_right)


def label_logits(model: Any, batch: Mapping[str, Any]) -> Tensor:
    """Scores the positions of a batch of one sequence that predict a label, by transformers' own forward.

    Args:
        model: A model with `LabelScoring`, or a peft model around it.
        batch: One row.

    Returns:
        (N, V) logits.
    """
    inputs = {key: value.to(model.device) for key, value in batch.items() if isinstance(value, Tensor)}
    labels = inputs.pop("labels")
    inputs.pop("segment_ids", None)
    inputs["position_ids"] = model.order_positions(inputs["position_ids"])
    predicts = torch.zeros_like(labels[0], dtype=torch.bool)
    predicts[:-1] = labels[0, 1:] != IGNORED_LABEL
    with torch.inference_mode():
        logits: Tensor = model(**inputs, logits_to_keep=predicts, use_cache=False).logits[0]
    return logits
