"""What a training step costs in arithmetic and in time, by counting. A model, not a measurement.

`Architecture` + `Batch` -> `Flops` (by part) -> seconds on a named GPU

One multiply-add is 2 FLOPs. Counted is what the hardware does, recomputation included; left out are norms, activations
and the softmax (below one per cent of a step at the published sizes), the loss, AdamW, what DoRA computes beyond LoRA,
and the frozen part of the first layer that needs no backward pass. Memory is in `memory.py`.
Source of the accounting: `cvft.families.arithmetic`.
"""

from __future__ import annotations

from collections.abc import Sequence

from cvft.families.arithmetic import (
    ATTENTION_BACKWARD_FLOPS,
    ATTENTION_FORWARD_FLOPS,
    FORWARD_FLOPS,
    INPUT_GRADIENT_FLOPS,
    WEIGHT_GRADIENT_FLOPS,
)
from cvft.families.cogvlm2_video.architecture import Architecture
from cvft.families.costs import AdapterParameters, Batch, Flops


def training_flops(
    architecture: Architecture,
    batch: Batch,
    *,
    adapter: AdapterParameters,
    adapted: Sequence[str],
    recompute: bool,
    scores_all_tokens: bool = False,
) -> Flops:
    """Counts forward and backward pass of one micro-batch.

    Whether tower and projector have a backward pass follows from the adapter: the projector does when it or the tower is
    trained. Recomputation covers the decoder blocks and, when it is trained, the tower, but not the projector. It ends where all
    that the backward pass needs is there (torch's early stop), so it leaves out a down projection without an adapter.

    Args:
        architecture: The model's sizes.
        batch: The micro-batch.
        adapter: Trainable parameters by part.
        adapted: Linear layers of a decoder block with an adapter; see `architecture.adapted_names`.
        recompute: Whether activations are recomputed in the backward pass.
        scores_all_tokens: Whether the output layer runs on every token, as in stock training, instead of on those that
            are trained on.

    Returns:
        FLOPs by part.
    """
    weights = architecture.language_layer_weights
    recomputed = weights - (0 if "down_proj" in adapted else architecture.language_linears["down_proj"].weights)
    layer_flops = (FORWARD_FLOPS + INPUT_GRADIENT_FLOPS) * weights + (FORWARD_FLOPS * recomputed if recompute else 0)
    attention_again = ATTENTION_FORWARD_FLOPS if recompute else 0
    attention_flops = ATTENTION_FORWARD_FLOPS + ATTENTION_BACKWARD_FLOPS + attention_again
    layers, width = architecture.num_hidden_layers, architecture.hidden_size
    num_scored = batch.num_tokens if scores_all_tokens else batch.num_label_tokens
    has_projector_backward = adapter.tower + adapter.projector + adapter.whole_projector > 0
    projector_flops = FORWARD_FLOPS + (INPUT_GRADIENT_FLOPS if has_projector_backward else 0)
    projector_flops += WEIGHT_GRADIENT_FLOPS if adapter.whole_projector else 0
    return Flops(
        tower=_tower_flops(architecture, batch.num_tower_frames, is_trained=adapter.tower > 0, recompute=recompute),
        projector=projector_flops * architecture.projector_weights * _num_pooled(architecture, batch),
        language=layer_flops * layers * batch.num_tokens,
        attention=attention_flops * width * layers * batch.num_pairs,
        output_layer=(FORWARD_FLOPS + INPUT_GRADIENT_FLOPS) * architecture.vocab_size * width * num_scored,
        adapter=_adapter_flops(architecture, batch, adapter, recompute=recompute),
    )


def build_flops(architecture: Architecture, num_frames: int) -> Flops:
    """Counts what it costs to encode frames once, up to the pooling convolution.

    Args:
        architecture: The model's sizes.
        num_frames: Frames.

    Returns:
        FLOPs; all in the tower.
    """
    return Flops(tower=_tower_flops(architecture, num_frames, is_trained=False, recompute=False))


def feature_bytes(architecture: Architecture, num_frames: int, *, dtype_bytes: int) -> int:
    """Returns the bytes of stored features, taken between pooling convolution and projector.

    Args:
        architecture: The model's sizes.
        num_frames: Frames.
        dtype_bytes: Bytes of a value.

    Returns:
        Bytes, without the file's header.
    """
    return num_frames * architecture.vision.num_pooled_patches * architecture.vision.hidden_size * dtype_bytes


def _num_pooled(architecture: Architecture, batch: Batch) -> int:
    return batch.num_projected_frames * architecture.vision.num_pooled_patches


def _tower_flops(architecture: Architecture, num_frames: int, *, is_trained: bool, recompute: bool) -> int:
    """Counts the tower; a trained one has its gradients end at the first block, so patches are only embedded."""
    vision = architecture.vision
    again = recompute and is_trained
    linear = FORWARD_FLOPS + is_trained * INPUT_GRADIENT_FLOPS + again * FORWARD_FLOPS
    attention = ATTENTION_FORWARD_FLOPS + is_trained * ATTENTION_BACKWARD_FLOPS + again * ATTENTION_FORWARD_FLOPS
    pooling = FORWARD_FLOPS + is_trained * INPUT_GRADIENT_FLOPS
    layer = linear * architecture.tower_layer_weights * vision.num_positions
    layer += attention * vision.num_positions**2 * vision.hidden_size
    frame = vision.num_hidden_layers * layer
    frame += FORWARD_FLOPS * vision.patch_weights * vision.num_patches
    frame += pooling * vision.pooling_weights * vision.num_pooled_patches
    return num_frames * frame


def _adapter_flops(architecture: Architecture, batch: Batch, adapter: AdapterParameters, *, recompute: bool) -> int:
    trained = FORWARD_FLOPS + INPUT_GRADIENT_FLOPS + WEIGHT_GRADIENT_FLOPS
    recomputed = trained + (FORWARD_FLOPS if recompute else 0)
    on_language = recomputed * adapter.language * batch.num_tokens
    on_tower = recomputed * adapter.tower * batch.num_tower_frames * architecture.vision.num_positions
    on_projector = trained * adapter.projector * _num_pooled(architecture, batch)
    return on_language + on_tower + on_projector
