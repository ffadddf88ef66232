"""A clip's keys, values and recurrent states, computed once and handed to each of its questions."""

from __future__ import annotations

from typing import Any

from torch import Tensor

STATES = (("conv_states", "is_conv_states_initialized"), ("recurrent_states", "is_recurrent_states_initialized"))
"""What recurrent layers of transformers' caches hold, each in a table of its own."""


def select_rows(cache: Any, rows: Tensor) -> None:
    """Keeps some rows of a cache, in place; a row may be taken more than once.

    Args:
        cache: A cache of transformers.
        rows: (R,) which rows to keep, in their new order, on the CPU: layers may lie on several GPUs.
    """
    for layer in cache.layers:
        if hasattr(layer, "batch_select_indices"):
            layer.batch_select_indices(rows)
        for name, are_there in STATES:
            states = getattr(layer, name, None)
            if states is None:
                continue
            for number, is_there in _items(getattr(layer, are_there)):
                if is_there:
                    states[number] = states[number][rows.to(states[number].device)]


def _items(table: Any) -> list[tuple[Any, Any]]:
    return list(table.items() if isinstance(table, dict) else enumerate(table))
