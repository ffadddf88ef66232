"""Caches of rows that are answered together: what several hold becomes one, and rows are taken out of one again.

keys and values (B, heads, L, D) are padded on the left, where a mask hides it; recurrent states (B, ...) have no length
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer, LinearAttentionAndFullAttentionLayer, LinearAttentionLayer

JOINABLE = (DynamicLayer, LinearAttentionLayer, LinearAttentionAndFullAttentionLayer)
"""Kinds of layers whose rows can be put together. One that keeps a window of tokens would need padding inside of it."""

STATES = (("conv_states", "is_conv_states_initialized"), ("recurrent_states", "is_recurrent_states_initialized"))
"""What recurrent layers of transformers' caches hold, each in a table of its own, and the table that says where it is there."""


def join_caches(caches: Sequence[Any]) -> Any:
    """Returns one cache with the rows of several, in their order; none of them is changed by what the model adds to it.

    Keys and values of a single one are not copied: a layer of these kinds never writes into them, but makes longer ones. What
    recurrent layers hold is copied, for they may write into it.

    Args:
        caches: Caches of transformers of one model, at least one; a cache may stand there more than once.
    """
    longest = max(cache.get_seq_length() for cache in caches)

    def join(tensors: Sequence[Tensor], *, has_length: bool) -> Tensor:
        if not has_length:
            return torch.cat([*tensors])  # copies a single one too
        first, num_rows = tensors[0], sum(len(tensor) for tensor in tensors)
        if len(tensors) == 1:
            return first
        joined = first.new_zeros(num_rows, first.shape[1], longest, first.shape[3])
        start = 0
        for tensor in tensors:
            joined[start : start + len(tensor), :, longest - tensor.shape[2] :] = tensor
            start += len(tensor)
        return joined

    return _make_cache(caches, join)


def take_rows(cache: Any, rows: Tensor, *, start: int = 0, end: int | None = None) -> Any:
    """Returns a cache with some rows of one, in their new order; it shares no memory with it.

    Args:
        cache: A cache of transformers.
        rows: (R,) which rows, on the CPU: layers may lie on several GPUs.
        start: Where the first token of the longest of them lies: what is before it is padding in all.
        end: Where their last token ends; None for the end of the cache.
    """

    def take(tensors: Sequence[Tensor], *, has_length: bool) -> Tensor:
        (tensor,) = tensors
        own = rows.to(tensor.device)
        return tensor[own, :, start:end] if has_length else tensor[own]

    return _make_cache([cache], take)


def _make_cache(caches: Sequence[Any], make: Callable[..., Tensor]) -> Any:
    made = copy.copy(caches[0])
    made.layers = [_make_layer(layers, make) for layers in zip(*(cache.layers for cache in caches), strict=True)]
    return made


def _make_layer(layers: Sequence[Any], make: Callable[..., Tensor]) -> Any:
    made = copy.copy(layers[0])
    assert type(made) in JOINABLE, f"rows with layers of the kind {type(made).__name__} cannot be answered together"
    if getattr(made, "keys", None) is not None:
        made.keys = make([layer.keys for layer in layers], has_length=True)
        made.values = make([layer.values for layer in layers], has_length=True)
    for name, value in vars(made).items():
        if isinstance(value, dict):
            setattr(made, name, dict(value))
    for name, are_there in STATES:
        for place in [place for place, is_there in getattr(made, are_there, {}).items() if is_there]:
            getattr(made, name)[place] = make([getattr(layer, name)[place] for layer in layers], has_length=False)
    return made
