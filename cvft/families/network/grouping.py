"""Groups: rows that share a clip, trained as one sequence that holds the clip once.

row    BOS clip question answer EOS                                  segments 0 0 .. 0 1 1 .. 1
group  BOS clip | question answer EOS | question answer EOS | ...    segments 0 0 .. 0 1 1 .. 1 2 2 .. 2 ...

Every question sees the prefix and itself, and its positions go on after the prefix, whatever stands between. So its loss is
that of the same row alone, and the gradient of the group is the sum of the gradients of its rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from cvft.families.family import IGNORED_LABEL, PREFIX_SEGMENT

PADDING_SEGMENT = -1

CLIP_KEYS = (
    *("pixel_values", "pixel_values_videos", "video_grid_thw", "vision_features"),
    *("image_sizes", "pixel_attention_mask"),
    *("image_grid_thw", "image_features"),
)
"""Keys of a row that belong to its clip and are the same for all rows of a group."""


def group_rows(rows: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Joins rows of one clip to one sequence.

    Args:
        rows: Rows as `Encoder.encode` returns them, with the same prefix; one row is returned as it is.

    Returns:
        The same keys, with the prefix of the first row and the questions and answers of all.
    """
    first, *others = rows
    num_prefix = int((first["segment_ids"] == PREFIX_SEGMENT).sum())
    for row in rows:
        assert int((row["segment_ids"] == PREFIX_SEGMENT).sum()) == num_prefix, "rows of different clips"
        assert torch.equal(row["input_ids"][:num_prefix], first["input_ids"][:num_prefix]), "rows of different clips"
    if not others:
        return dict(first)
    for row in rows:
        # the last token of the prefix predicts one token only, but each question has a first token of its own
        assert row["labels"][num_prefix] == IGNORED_LABEL, "the first token after the clip has a label"
    group = {}
    for key, value in first.items():
        if key in CLIP_KEYS:
            group[key] = value
        elif key == "segment_ids":
            numbered = [row[key][num_prefix:] * number for number, row in enumerate(rows, 1)]
            group[key] = torch.cat([value[:num_prefix], *numbered])
        else:
            group[key] = torch.cat([value, *(row[key][num_prefix:] for row in others)])
    return group


def split_row(row: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Cuts a row into its prefix, which keeps the clip, and its question."""
    num_prefix = int((row["segment_ids"] == PREFIX_SEGMENT).sum())
    prefix = {key: value if key in CLIP_KEYS else value[:num_prefix] for key, value in row.items()}
    return prefix, {key: value[num_prefix:] for key, value in row.items() if key not in CLIP_KEYS}


def group_attention_mask(segment_ids: Tensor, *, additive_dtype: torch.dtype | None = None) -> Tensor:
    """Says which token sees which: what came before it in the prefix or in its own segment.

    Args:
        segment_ids: (B, L) 0 for the prefix, n for the n-th question, -1 for padding.
        additive_dtype: Dtype for a mask that is added to the scores; None for a boolean one.

    Returns:
        (B, 1, L, L), queries before keys: True where seen, or 0 where seen and the lowest number elsewhere.
    """
    length = segment_ids.shape[1]
    query, key = segment_ids[:, :, None], segment_ids[:, None, :]
    earlier = torch.ones(length, length, dtype=torch.bool, device=segment_ids.device).tril()
    seen = earlier & ((key == PREFIX_SEGMENT) | (key == query)) & (key != PADDING_SEGMENT)
    # padding sees itself: a softmax over nothing is not a number, and would reach every weight's gradient
    seen = (seen | torch.eye(length, dtype=torch.bool, device=segment_ids.device))[:, None]
    if additive_dtype is None:
        return seen
    lowest = torch.finfo(additive_dtype).min
    return torch.zeros(seen.shape, dtype=additive_dtype, device=seen.device).masked_fill(~seen, lowest)
