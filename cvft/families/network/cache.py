"""Caches of rows that are answered together: what several hold becomes one, and a row is taken out of one again.

keys and values (B, heads, L, D) are padded on the left, where a mask hides it; recurrent states (B, ...) have no length
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.cache_utils import DynamicLayer, LinearAttentionAndFullAttentionLayer, LinearAttentionLayer

JOINABLE = (DynamicLayer, LinearAttentionLayer, LinearAttentionAndFullAttentionLayer)
"""Kinds of layers whose rows can be put together. One that keeps a window of tokens would need padding inside of it."""

STATES = (("conv_states", "is_conv_states_initialized"), ("recurrent_states", "is_recurrent_states_initialized"))
"""What recurrent layers of transformers' caches hold, each in a table of its own."""

TABLES = ("has_previous_state", "conv_kernel_size")
"""What else they keep in tables: equal in all rows that have been computed."""


def join_caches(caches: Sequence[Any]) -> Any:
    """Returns one cache with the rows of several, in their order; none of them is changed, and it shares no memory with them.

    Args:
        caches: Caches of transformers of one model, at least one; a cache may stand there more than once.
    """
    joined = copy.copy(caches[0])
    joined.layers = [_join_layers(layers) for layers in zip(*(cache.layers for cache in caches), strict=True)]
    return joined


def take_rows(cache: Any, rows: Tensor, *, start: int) -> None:
    """Keeps some rows of a cache, in place.

    Args:
        cache: A cache of transformers.
        rows: (R,) which rows to keep, in their new order, on the CPU: layers may lie on several GPUs.
        start: Where the first token of the longest of them lies: what is before it is padding in all.
    """
    for layer in cache.layers:
        if _has_keys(layer):
            own = rows.to(layer.keys.device)
            layer.keys, layer.values = layer.keys[own, :, start:], layer.values[own, :, start:]
        for states, number in _states_of(layer):
            states[number] = states[number][rows.to(states[number].device)]


def _join_layers(layers: Sequence[Any]) -> Any:
    joined = copy.copy(layers[0])
    assert type(joined) in JOINABLE, f"rows with layers of the kind {type(joined).__name__} cannot be answered together"
    if _has_keys(joined):
        longest = max(layer.keys.shape[-2] for layer in layers)
        for name in ("keys", "values"):
            tensors = [getattr(layer, name) for layer in layers]
            setattr(joined, name, torch.cat([F.pad(each, (0, 0, longest - each.shape[-2], 0)) for each in tensors]))
    for name in (*(name for pair in STATES for name in pair), *TABLES):
        if hasattr(joined, name):
            setattr(joined, name, copy.copy(getattr(joined, name)))
    for (states, number), *others in zip(_states_of(joined), *map(_states_of, layers[1:]), strict=True):
        states[number] = torch.cat([states[number], *(table[place] for table, place in others)])
    return joined


def _has_keys(layer: Any) -> bool:
    return getattr(layer, "keys", None) is not None


def _states_of(layer: Any) -> list[tuple[Any, Any]]:
    """Returns the tables of a layer's states, with each place in them that holds one."""
    found = []
    for name, are_there in STATES:
        table = getattr(layer, are_there, {})
        places = table.items() if isinstance(table, dict) else enumerate(table)
        found += [(getattr(layer, name), place) for place, is_there in places if is_there]
    return found
