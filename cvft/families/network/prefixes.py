"""What the model has made of clips, kept for questions that come later: the cache of a prefix, within a bound.

clip -> its prefix computed alone -> inputs and cache, which nobody changes -> a cache of its own for each later question
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Mapping
from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache


class KeptPrefixes:
    """Prefixes by their clip; those that were not asked for longest make room.

    Args:
        num_bytes: Most bytes kept.
    """

    def __init__(self, num_bytes: int) -> None:
        self.num_found = 0
        self.num_asked = 0
        self._room = num_bytes
        self._kept: OrderedDict[Hashable, tuple[dict[str, Tensor], Cache]] = OrderedDict()

    def find(self, clip: Hashable) -> tuple[dict[str, Tensor], Cache] | None:
        """Returns a clip's inputs and a cache of its own for the caller, or None."""
        self.num_asked += 1
        if clip not in self._kept:
            return None
        self.num_found += 1
        self._kept.move_to_end(clip)
        inputs, cache = self._kept[clip]
        return inputs, copy.deepcopy(cache)

    def keep(self, clip: Hashable, inputs: Mapping[str, Tensor], cache: Cache) -> None:
        """Keeps a copy of a clip's prefix, as far as there is room.

        Args:
            clip: What tells it from all others.
            inputs: Its sequences (1, L).
            cache: Its keys and values, and the states of recurrent layers, which are changed where they lie.
        """
        self._kept[clip] = dict(inputs), copy.deepcopy(cache)
        while self._kept and self.num_bytes > self._room:
            self._kept.popitem(last=False)

    @property
    def num_bytes(self) -> int:
        """What is kept, in bytes."""
        return sum(
            tensor.nbytes
            for inputs, cache in self._kept.values()
            for part in (inputs, *(vars(layer) for layer in cache.layers))
            for tensor in _tensors_in(part)
        )


def _tensors_in(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _tensors_in(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _tensors_in(each)
