"""Attention of groups without a mask of length x length, registered with transformers under a name of its own.

prefix                        one causal call
questions of a group (K, m)   one call: each sees [prefix | itself], under a mask (m, P + m) that all share

A kernel with one mask for a whole group would compute every pair of questions, only to throw most of them away.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from cvft.families.family import PREFIX_SEGMENT

GROUP_ATTENTION = "cvft_groups"
"""Name of the attention in transformers."""

GroupLengths = Sequence[tuple[int, Sequence[int]]]
"""Of each sequence of a batch: tokens of the prefix, and of each question behind it. Padding follows at the end."""


def lengths_of(segment_ids: Tensor) -> tuple[int, list[int]]:
    """Counts the tokens of a sequence by segment.

    Args:
        segment_ids: (L,) 0 for the prefix, n for the n-th question.

    Returns:
        Tokens of the prefix and of each question. A single question counts as prefix: one causal sequence.
    """
    first, *others = torch.bincount(segment_ids).tolist()
    assert PREFIX_SEGMENT == 0, "counted first"
    return (len(segment_ids), []) if len(others) <= 1 else (first, others)


def group_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    group_lengths: GroupLengths | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attends within groups; called by transformers' decoder layers.

    Args:
        module: The attention layer.
        query: (B, H, L, D).
        key: (B, K, L, D).
        value: (B, K, L, D).
        attention_mask: For calls without groups, such as those of generation; else not looked at.
        dropout: Not carried out with groups: models that have it are not loaded.
        scaling: Factor of the scores.
        is_causal: For calls without groups.
        group_lengths: The batch's groups; None for calls without.
        kwargs: Whatever else transformers passes on.

    Returns:
        (B, L, H, D) sums of values, 0 for padding.
    """
    if group_lengths is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, is_causal=is_causal, **kwargs
        )
    length, sequences = query.shape[2], []
    for number, (num_prefix, num_questions) in enumerate(group_lengths):
        q, k, v = (tensor[number : number + 1] for tensor in (query, key, value))
        pieces = [_attend(q[:, :, :num_prefix], k[:, :, :num_prefix], v[:, :, :num_prefix], scaling=scaling)]
        if num_questions:
            pieces += _attend_questions(q, k, v, num_prefix=num_prefix, lengths=num_questions, scaling=scaling)
        attended = torch.cat(pieces, dim=2)
        sequences.append(F.pad(attended, (0, 0, 0, length - attended.shape[2])))
    return torch.cat(sequences).transpose(1, 2).contiguous(), None


def _attend_questions(
    query: Tensor, key: Tensor, value: Tensor, *, num_prefix: int, lengths: Sequence[int], scaling: float | None
) -> list[Tensor]:
    """Returns (1, H, n, D) for each question of one group, all computed in one call."""
    most, num = max(lengths), len(lengths)
    ends = torch.tensor(lengths).cumsum(0).tolist()

    def stack(tensor: Tensor) -> Tensor:
        rows = [
            tensor[:, :, num_prefix + end - count : num_prefix + end] for end, count in zip(ends, lengths, strict=True)
        ]
        return torch.cat([F.pad(row, (0, 0, 0, most - row.shape[2])) for row in rows])

    def with_prefix(tensor: Tensor) -> Tensor:
        return torch.cat((tensor[:, :, :num_prefix].expand(num, -1, -1, -1), stack(tensor)), dim=2)

    # lower right: what pads a shorter question stands behind all of its tokens, and none of them sees it
    seen = torch.ones(most, num_prefix + most, dtype=torch.bool, device=query.device).tril(num_prefix)
    attended = _attend(stack(query), with_prefix(key), with_prefix(value), scaling=scaling, mask=seen)
    return [attended[number : number + 1, :, :count] for number, count in enumerate(lengths)]


def _attend(query: Tensor, key: Tensor, value: Tensor, *, scaling: float | None, mask: Tensor | None = None) -> Tensor:
    num_shared = query.shape[1] // key.shape[1]
    if mask is not None and num_shared > 1:
        # with a mask, no fused kernel of CUDA takes fewer key heads than query heads; transformers repeats them too
        key, value = (tensor.repeat_interleave(num_shared, dim=1) for tensor in (key, value))
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        is_causal=mask is None,
        scale=scaling,
        enable_gqa=mask is None and num_shared > 1,
    )


AttentionInterface.register(GROUP_ATTENTION, group_attention)
AttentionMaskInterface.register(GROUP_ATTENTION, sdpa_mask)
