"""This family's formulas behind one face: `Family.costs` gives them to plans and forecasts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cvft.families.cogvlm2_video import flops, memory
from cvft.families.cogvlm2_video.architecture import Architecture
from cvft.families.costs import Batch, ClipShape, Flops, Memory, Training


@dataclass(frozen=True)
class Costs:
    """Counts memory and FLOPs; see `cvft.families.costs.CostModel`.

    Args:
        architecture: The model's sizes.
    """

    architecture: Architecture

    def peak_memory(self, batch: Batch, training: Training) -> Memory:
        """Counts the memory of one rank for its largest micro-batch."""
        return memory.peak_memory(self.architecture, batch, training)

    def training_flops(self, batch: Batch, training: Training) -> Flops:
        """Counts forward and backward pass of one micro-batch."""
        return flops.training_flops(
            self.architecture,
            batch,
            adapter=training.adapter,
            adapted=training.adapted,
            recompute=training.recompute,
            scores_all_tokens=training.scores_all_tokens,
        )

    def build_flops(self, clips: Sequence[ClipShape]) -> Flops:
        """Counts what it costs to encode clips once; all frames cost the same."""
        return flops.build_flops(self.architecture, _num_frames(clips))


def _num_frames(clips: Sequence[ClipShape]) -> int:
    return sum(clip.num_frames for clip in clips)
