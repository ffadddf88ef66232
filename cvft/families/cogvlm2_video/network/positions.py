"""Rotary positions of a row: a pure function of which tokens are vision tokens and which are padding."""

from __future__ import annotations

import torch
from torch import Tensor

LANGUAGE_TYPE = 0
VISION_TYPE = 1


def position_ids_from_types(token_type_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    """Gives every token its rotary position.

    Text, time indices and the two markers around a run of vision tokens advance by one; the vision tokens inside a run
    share one position. So with time indices each frame has a position of its own, and without them all frames lie on
    one. The first token that is not padding has position 0, so a left-padded row equals the same row alone.

    Args:
        token_type_ids: (B, L) integers, 0 for language and 1 for vision tokens.
        attention_mask: (B, L) with 0 for padding, or None when nothing is padded.

    Returns:
        (B, L) int64 positions; padding on the left has 0, padding on the right repeats the last position.

    Source:
        `build_position_ids` of the published modelling file; golden vectors hold it.
    """
    real = torch.ones_like(token_type_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
    vision = (token_type_ids == VISION_TYPE) & real
    language = ~vision & real
    row_edge = torch.ones_like(language[:, :1])
    left_of = torch.cat((row_edge, language[:, :-1]), dim=1)
    right_of = torch.cat((language[:, 1:], row_edge), dim=1)
    # boi and eoi: vision tokens that touch text or the edge of the row count as text
    language_like = language | (vision & (left_of | right_of))
    opens_run = vision & torch.cat((row_edge, language_like[:, :-1]), dim=1)
    advances = (language_like | opens_run) & real
    first_real = real & (real.long().cumsum(dim=1) == 1)
    return (advances & ~first_real).long().cumsum(dim=1)
