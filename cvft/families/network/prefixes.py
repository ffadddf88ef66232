"""What the model has made of clips, kept for questions that come later: the cache of a prefix, within a bound.

prefix, by its clip and its ids -> cache, which nobody changes -> joined with those of other rows for each later question
"""

from __future__ import annotations

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
        self._num_bytes = 0
        self._kept: OrderedDict[Hashable, tuple[Cache, int]] = OrderedDict()

    def find(self, clip: Hashable) -> Cache | None:
        """Returns a clip's cache (1, P), which must not be changed, or None."""
        self.num_asked += 1
        if clip not in self._kept:
            return None
        self.num_found += 1
        self._kept.move_to_end(clip)
        return self._kept[clip][0]

    def keep(self, clip: Hashable, cache: Cache) -> None:
        """Keeps a clip's prefix, as far as there is room.

        Args:
            clip: What tells it from all others; it is not kept yet.
            cache: Its keys and values, and the states of recurrent layers, which nobody changes any more.
        """
        num_bytes = sum(tensor.nbytes for layer in cache.layers for tensor in _tensors_in(vars(layer)))
        self._kept[clip] = cache, num_bytes
        self._num_bytes += num_bytes
        while self._num_bytes > self._room:
            _, (_, dropped) = self._kept.popitem(last=False)
            self._num_bytes -= dropped


def _tensors_in(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _tensors_in(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _tensors_in(each)
