"""How much memory of a GPU a training step takes at its peak, by counting what lies there. A model, not a measurement.

`Architecture` + `Batch` + how it is trained -> `Memory` (bytes by part of one rank)

Counted are tensors. What the allocator loses to fragments and what kernels take inside (cuBLAS, attention backward) is
not; leave room for it. Eager attention, which keeps every weight, and DoRA's own intermediates are not modelled.
"""

from __future__ import annotations

from dataclasses import replace

from cvft.families.cogvlm2_video.activations import (
    backward_bytes,
    language_layer_bytes,
    norm_bytes,
    projector_bytes,
    tower_layer_bytes,
    tower_working_bytes,
)
from cvft.families.cogvlm2_video.architecture import Architecture
from cvft.families.cogvlm2_video.tensors import PARTS
from cvft.families.costs import Batch, Memory, Training
from cvft.families.resident import (
    CONTEXT_BYTES,
    adapter_bytes,
    adapter_state,
    cast_bytes,
    communication_bytes,
    logit_bytes,
    resident_weight_bytes,
)


def peak_memory(architecture: Architecture, batch: Batch, training: Training) -> Memory:
    """Counts the memory of one rank.

    Args:
        architecture: The model's sizes.
        batch: Its largest micro-batch.
        training: How it is trained.

    Returns:
        Bytes by part.
    """
    gradient, optimizer, host = adapter_state(training)
    return Memory(
        weights=resident_weight_bytes(PARTS, architecture.shapes, training),
        adapter=adapter_bytes(training),
        gradient=gradient,
        optimizer=optimizer,
        communication=communication_bytes(training, width=architecture.hidden_size),
        context=CONTEXT_BYTES,
        saved=saved_bytes(architecture, batch, training),
        vision=_vision_bytes(architecture, batch, training),
        logits=logit_bytes(
            training,
            num_tokens=batch.num_tokens,
            num_label_tokens=batch.num_label_tokens,
            vocab_size=architecture.vocab_size,
            width=architecture.hidden_size,
        ),
        layer=_layer_bytes(architecture, batch, training),
        host=host,
    )


def saved_bytes(architecture: Architecture, batch: Batch, training: Training) -> int:
    """Counts the activations that wait for the backward pass, without those of the loss.

    Without recomputation all that `activations.py` lists, of every block; with it the input of every block and the embeddings,
    which transformers makes a leaf then (`enable_input_require_grads`). The first block's first norm is among them, though it
    saves nothing when its input needs no gradient.

    Args:
        architecture: The model's sizes.
        batch: The micro-batch.
        training: How it is trained.

    Returns:
        Bytes.
    """
    precision = training.precision
    num_bytes = batch.num_tokens * norm_bytes(architecture.hidden_size)  # the norm after the last block
    if training.recompute:
        block_input = architecture.hidden_size * precision.dtype_bytes
        num_bytes += (architecture.num_hidden_layers + 1) * batch.num_tokens * block_input
        num_bytes += cast_bytes(training, num_values=training.adapter.whole_projector)  # it is not recomputed
    else:
        num_bytes += architecture.num_hidden_layers * _language_block_bytes(architecture, batch, training)
        num_bytes += cast_bytes(training, num_values=training.adapter.total)
    return num_bytes + _saved_vision_bytes(architecture, batch, training)


def _saved_vision_bytes(architecture: Architecture, batch: Batch, training: Training) -> int:
    precision, vision, num_bytes = training.precision, architecture.vision, 0
    if training.adapter.tower:
        block = vision.hidden_size * precision.norm_value_bytes  # its input
        if not training.recompute:
            block = tower_layer_bytes(architecture, precision=precision, rank=training.rank)
        pooled = vision.hidden_size * precision.norm_value_bytes  # input of the pooling convolution
        per_position = vision.num_hidden_layers * block + pooled
        num_bytes += batch.num_tower_frames * vision.num_positions * per_position
    adapter = training.adapter
    if adapter.tower or adapter.projector or adapter.whole_projector:
        per_patch = projector_bytes(
            architecture,
            precision=precision,
            rank=training.rank,
            has_adapter=adapter.projector > 0,
            is_whole=adapter.whole_projector > 0,
        )
        num_bytes += batch.num_projected_frames * vision.num_pooled_patches * per_patch
    return num_bytes


def _language_block_bytes(architecture: Architecture, batch: Batch, training: Training) -> int:
    per_token = language_layer_bytes(
        architecture,
        precision=training.precision,
        adapted=training.adapted,
        rank=training.rank,
        has_mask=batch.num_mask_cells > 0,
    )
    # a boolean mask becomes an additive one in every block
    return batch.num_tokens * per_token + batch.num_mask_cells * training.dtype_bytes


def _layer_bytes(architecture: Architecture, batch: Batch, training: Training) -> int:
    per_token = backward_bytes(architecture, precision=training.precision, adapted=training.adapted)
    num_bytes = batch.num_tokens * per_token
    if training.quantize != "none":  # one layer's weights at a time are unpacked for the products
        num_bytes += max(linear.weights for linear in architecture.language_linears.values()) * training.dtype_bytes
    if training.recompute:
        num_bytes += _language_block_bytes(architecture, batch, training)
        num_bytes += cast_bytes(training, num_values=training.adapter.language // architecture.num_hidden_layers)
    return num_bytes


def _vision_bytes(architecture: Architecture, batch: Batch, training: Training) -> int:
    precision = training.precision
    if not training.adapter.tower:
        precision = replace(precision, is_autocast=False)  # a frozen tower computes in its own precision
    per_position = tower_working_bytes(architecture, precision=precision)
    return batch.num_tower_frames * architecture.vision.num_positions * per_position
