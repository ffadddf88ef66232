"""Memory and FLOPs of a model, of its decoder and its tower. A model, not a measurement.

`Decoder` + `Vision` + `Batch` + how it is trained -> `Flops`, `Memory` (by part of one rank)

Of FLOPs, counted is what the hardware does, recomputation included; left out are norms, activations, rotary positions and the
softmax, the loss, AdamW, what DoRA computes beyond LoRA, and the frozen part of the first layer that needs no backward pass.

Of memory, counted are tensors. What the allocator loses to fragments and what kernels take inside (cuBLAS, attention backward) is
not; leave room for it. Eager attention, which keeps every weight, and DoRA's own intermediates are not modelled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cvft.families import tower_costs
from cvft.families.arithmetic import FORWARD_FLOPS
from cvft.families.costs import Batch, ClipShape, Flops, Memory, Training
from cvft.families.decoder_costs import Decoder
from cvft.families.parts import Parts, Shape
from cvft.families.resident import (
    CONTEXT_BYTES,
    adapter_bytes,
    adapter_state,
    communication_bytes,
    logit_bytes,
    resident_weight_bytes,
)
from cvft.families.tower_costs import Vision


@dataclass(frozen=True)
class ModelCosts:
    """Counts memory and FLOPs; see `cvft.families.costs.CostModel`.

    Args:
        parts: The model's parts.
        shapes: Its tensors by their names in the loaded model.
        decoder: Its decoder.
        vision: Its tower with the projector.
    """

    parts: Parts
    shapes: Mapping[str, Shape]
    decoder: Decoder
    vision: Vision

    def peak_memory(self, batch: Batch, training: Training) -> Memory:
        """Counts the memory of one rank for its largest micro-batch."""
        gradient, optimizer, host = adapter_state(training)
        return Memory(
            weights=resident_weight_bytes(self.parts, self.shapes, training),
            adapter=adapter_bytes(training),
            gradient=gradient,
            optimizer=optimizer,
            communication=communication_bytes(training, width=self.decoder.width),
            context=CONTEXT_BYTES,
            saved=self.saved_bytes(batch, training),
            vision=tower_costs.working_bytes(self.vision, _encoded(batch), training),
            logits=logit_bytes(
                training,
                num_tokens=batch.num_tokens,
                num_label_tokens=batch.num_label_tokens,
                vocab_size=self.decoder.vocab_size,
                width=self.decoder.width,
            ),
            layer=self.decoder.layer_bytes(batch, training),
            host=host,
        )

    def saved_bytes(self, batch: Batch, training: Training) -> int:
        """Counts the activations that wait for the backward pass, without those of the loss."""
        of_clips = tower_costs.saved_bytes(self.vision, _encoded(batch), self._projected(batch), training)
        return self.decoder.saved_bytes(batch, training) + of_clips

    def training_flops(self, batch: Batch, training: Training) -> Flops:
        """Counts forward and backward pass of one micro-batch."""
        encoded, projected, decoder = _encoded(batch), self._projected(batch), self.decoder
        is_trained, recompute = training.adapter.tower > 0, training.recompute
        on_language = tower_costs.trained_flops(recompute=recompute) * training.adapter.language * batch.num_tokens
        return Flops(
            tower=tower_costs.tower_flops(self.vision, encoded, is_trained=is_trained, recompute=recompute),
            projector=tower_costs.projector_flops(self.vision, projected, training),
            language=decoder.linear_flops(training) * batch.num_tokens,
            attention=decoder.mixing_flops(batch, training),
            output_layer=decoder.output_flops(batch, training),
            adapter=on_language + tower_costs.adapter_flops(self.vision, encoded, projected, training),
        )

    def build_flops(self, clips: Sequence[ClipShape]) -> Flops:
        """Counts what it costs to encode clips once, up to where features are taken."""
        projected = tower_costs.num_projected(self.vision, clips) if self.parts.caches_projector else 0
        return Flops(
            tower=tower_costs.tower_flops(self.vision, clips, is_trained=False, recompute=False),
            projector=FORWARD_FLOPS * self.vision.projector_weights * projected,
        )

    def _projected(self, batch: Batch) -> list[ClipShape]:
        """Returns the clips that pass through the projector."""
        return _encoded(batch) if self.parts.caches_projector else batch.clips


def _encoded(batch: Batch) -> list[ClipShape]:
    """Returns the clips that pass through the tower: none whose features are stored."""
    return batch.clips if batch.num_tower_frames else []
