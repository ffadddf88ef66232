"""What a choice among experts computes and keeps, whatever the router chooses. No torch.

Each token passes through the router, through so many experts as `num_experts_per_tok` says, and through the shared expert where
there is one. So neither FLOPs nor bytes depend on which ones: on a GPU and on a CPU alike transformers sorts the chosen pairs of
token and expert, and one kernel computes all experts (`grouped_mm`, its default). `eager`, a loop over experts, keeps as much.

Source: `grouped_mm_experts_forward` of transformers 5.19.
"""

from __future__ import annotations

from dataclasses import dataclass

from cvft.families.costs import FP32_BYTES, Precision
from cvft.families.decoder_costs import GatedMlp
from cvft.families.qwen_vl.sizes import ExpertSizes

INDEX_BYTES = 8
"""Bytes of a place in an order. Source: torch's indices are int64."""

NUM_ORDERS = 3
"""Orders of the pairs that are kept: which token each reads, which weight it has, and where its output goes back to."""


@dataclass(frozen=True)
class Experts:
    """Experts behind a router; see `cvft.families.decoder_costs.Mlp`.

    Args:
        sizes: Their sizes.
        width: Width of the decoder.
    """

    sizes: ExpertSizes
    width: int

    @property
    def chosen_weights(self) -> int:
        """Weights of the experts that each token passes through; router and shared expert are linear layers of the block."""
        return 3 * self.sizes.num_chosen * self.sizes.intermediate_size * self.width

    def kept_bytes(self, precision: Precision) -> int:
        """Counts the router, the chosen pairs of token and expert, and the shared expert with its gate."""
        sizes, chosen, value_bytes = self.sizes, self.sizes.num_chosen, precision.dtype_bytes
        # the softmax, and the chosen probabilities before they are scaled to a sum of 1; they are fp32
        router = (sizes.num_experts + chosen + 1) * FP32_BYTES + chosen * INDEX_BYTES
        order = chosen * (NUM_ORDERS * INDEX_BYTES + value_bytes)  # each pair has a weight
        pairs = chosen * (GatedMlp(sizes.intermediate_size).kept_bytes(precision) + self.width * value_bytes)
        return router + order + pairs + self._shared_bytes(precision)

    def _shared_bytes(self, precision: Precision) -> int:
        if not self.sizes.shared_size:
            return 0
        gated = (self.width + 1) * precision.dtype_bytes  # the expert's output and its gate, which multiply each other
        return GatedMlp(self.sizes.shared_size).kept_bytes(precision) + gated

    def working_bytes(self, precision: Precision) -> int:
        """Counts the pairs' gradients: where outputs meet their weights, three as wide as the decoder."""
        widest = max(3 * self.width, 4 * self.sizes.intermediate_size)
        return self.sizes.num_chosen * widest * precision.dtype_bytes
