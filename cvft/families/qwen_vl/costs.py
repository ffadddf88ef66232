"""The formulas of Qwen-VL behind one face: `Family.costs` gives them to plans and forecasts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cvft.families.costs import Batch, ClipShape, Flops, Memory, Training
from cvft.families.qwen_vl import flops, memory
from cvft.families.qwen_vl.sizes import Sizes


@dataclass(frozen=True)
class Costs:
    """Counts memory and FLOPs; see `cvft.families.costs.CostModel`.

    Args:
        sizes: The model's sizes.
    """

    sizes: Sizes

    def peak_memory(self, batch: Batch, training: Training) -> Memory:
        """Counts the memory of one rank for its largest micro-batch."""
        return memory.peak_memory(self.sizes, batch, training)

    def training_flops(self, batch: Batch, training: Training) -> Flops:
        """Counts forward and backward pass of one micro-batch."""
        return flops.training_flops(self.sizes, batch, training)

    def build_flops(self, clips: Sequence[ClipShape]) -> Flops:
        """Counts what it costs to encode clips once, mergers included."""
        return flops.build_flops(self.sizes, clips)


def costs_of(config: Mapping[str, Any]) -> Costs | None:
    """Returns the formulas for a config.json, or None for experts, whose products and memory depend on the router's choices.

    Args:
        config: Values of a checked config.json.
    """
    sizes = Sizes.from_config(config)
    return Costs(sizes) if sizes.experts is None else None
