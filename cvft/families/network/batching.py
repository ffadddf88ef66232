"""Sequences padded to one batch, for families whose encoders give ids, labels, positions and segments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from cvft.families.family import IGNORED_LABEL
from cvft.families.network.attention import lengths_of
from cvft.families.network.grouping import CLIP_KEYS, PADDING_SEGMENT


def collate_sequences(
    sequences: Sequence[Mapping[str, Tensor]],
    *,
    padding_side: Literal["left", "right"],
    padding_id: int,
    clip_dims: Mapping[str, int],
) -> dict[str, Any]:
    """Pads sequences to one batch.

    Args:
        sequences: Rows or groups: `input_ids`, `labels`, `segment_ids` (L,), `position_ids` (L,) or (L, 3), and a clip's tensors.
        padding_side: "right" for training, "left" for generation.
        padding_id: Id that fills up.
        clip_dims: Along which dimension a clip's tensors are joined, by their names, where that is not the first.

    Returns:
        `input_ids`, `labels`, `attention_mask` (B, L), `position_ids` (B, L) or (B, L, 3), `segment_ids` where a sequence is more
        than one row, `group_lengths` with padding on the right, and the tensors of all clips.
    """
    fills = {
        "input_ids": padding_id,
        "labels": IGNORED_LABEL,
        "attention_mask": 0,
        "position_ids": 0,
        "segment_ids": PADDING_SEGMENT,
    }
    batch: dict[str, Any] = join_padded(sequences, padding_side=padding_side, fills=fills, clip_dims=clip_dims)
    if padding_side == "right":
        batch["group_lengths"] = [lengths_of(sequence["segment_ids"]) for sequence in sequences]
    return batch


def join_padded(
    sequences: Sequence[Mapping[str, Tensor]],
    *,
    padding_side: Literal["left", "right"],
    fills: Mapping[str, int],
    clip_dims: Mapping[str, int],
) -> dict[str, Tensor]:
    """Pads what sequences have for each token, and joins their clips.

    Args:
        sequences: Rows or groups.
        padding_side: "right" for training, "left" for generation.
        fills: Value under padding, for each of a sequence's tensors; `attention_mask` is made here.
        clip_dims: Along which dimension a clip's tensors are joined, by their names, where that is not the first.

    Returns:
        Those tensors (B, L, ...), without `segment_ids` where every sequence is a single row, and the tensors of all clips.
    """
    length = max(len(sequence["input_ids"]) for sequence in sequences)

    def pad(sequence: Tensor, fill: int) -> Tensor:
        missing = length - len(sequence)
        if not missing:
            return sequence
        padding = sequence.new_full((missing, *sequence.shape[1:]), fill)
        return torch.cat((padding, sequence) if padding_side == "left" else (sequence, padding))

    batch = {}
    for key, fill in fills.items():
        own = [
            torch.ones_like(sequence["input_ids"]) if key == "attention_mask" else sequence[key]
            for sequence in sequences
        ]
        batch[key] = torch.stack([pad(each, fill) for each in own])
    if batch["segment_ids"].max() <= 1:
        batch.pop("segment_ids")
    for key in CLIP_KEYS:
        clips = [sequence[key] for sequence in sequences if key in sequence]
        if clips:
            batch[key] = torch.cat(clips, dim=clip_dims.get(key, 0))
    return batch
