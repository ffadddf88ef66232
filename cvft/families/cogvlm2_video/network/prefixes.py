"""What the model has made of clips, kept for questions that come later: keys and values of a prefix, within a bound.

clip -> its prefix computed alone -> inputs and keys and values, which nobody changes -> a fresh cache for each later question
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping

from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache


class KeptPrefixes:
    """Prefixes by their clip; those that were not asked for longest make room.

    Args:
        num_bytes: Most bytes kept.
    """

    def __init__(self, num_bytes: int) -> None:
        self.num_found = 0
        self.num_asked = 0
        self._room = num_bytes
        self._kept: OrderedDict[Hashable, tuple[dict[str, Tensor], list[tuple[Tensor, Tensor]]]] = OrderedDict()

    def find(self, clip: Hashable) -> tuple[dict[str, Tensor], Cache] | None:
        """Returns a clip's inputs and a cache of its own for the caller, or None."""
        self.num_asked += 1
        if clip not in self._kept:
            return None
        self.num_found += 1
        self._kept.move_to_end(clip)
        inputs, layers = self._kept[clip]
        cache = DynamicCache()
        for number, (keys, values) in enumerate(layers):
            cache.update(keys, values, number)
        return inputs, cache

    def keep(self, clip: Hashable, inputs: Mapping[str, Tensor], cache: Cache) -> None:
        """Keeps a clip's prefix, as far as there is room.

        Args:
            clip: What tells it from all others.
            inputs: Its sequences (1, L).
            cache: Its keys and values; later tokens are joined to copies of them, so that what lies here stays as it is.
        """
        layers = [(layer.keys, layer.values) for layer in cache.layers]
        self._kept[clip] = dict(inputs), layers
        while self._kept and self.num_bytes > self._room:
            self._kept.popitem(last=False)

    @property
    def num_bytes(self) -> int:
        """What is kept, in bytes."""
        return sum(
            tensor.nbytes
            for inputs, layers in self._kept.values()
            for tensor in (*inputs.values(), *(each for pair in layers for each in pair))
        )
