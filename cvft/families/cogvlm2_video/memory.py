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
from cvft.families.costs import FP32_BYTES, Batch, Memory, Training
from cvft.families.parts import weight_bytes

CONTEXT_BYTES = 700_000_000
"""What CUDA, cuBLAS and their kernels take on the device before any tensor. An assumption: it depends on driver and GPU.

Source: the 0.7 GB of the paper model in the project's performance notes; one run of `nvidia-smi` shows it for a machine.
"""

ADAM_MOMENTS = 2

LOGIT_BYTES = 3 * FP32_BYTES
"""Bytes per (row, word of the vocabulary) at the head of the backward pass: the saved log-probabilities, the gradient with
respect to them, and with respect to the logits, all fp32. More than the forward pass holds (logits, their fp32 copy and the
log-probabilities). Source: torch's cross_entropy, log_softmax followed by nll_loss."""

BUCKET_VALUES = 200_000_000
"""Values of the buffer in which ZeRO-1 and ZeRO-2 collect gradients, taken whole however small the adapter is.

Source: `reduce_bucket_size` of ms-swift's zero1.json and zero2.json; deepspeed/runtime/zero/stage_1_and_2.py, setup_buckets.
"""

GATHERED_VALUES = 1_000_000_000
"""Most parameters that ZeRO-3 holds gathered. Source: `stage3_max_live_parameters` of ms-swift's zero3.json."""


def peak_memory(architecture: Architecture, batch: Batch, training: Training) -> Memory:
    """Counts the memory of one rank.

    Args:
        architecture: The model's sizes.
        batch: Its largest micro-batch.
        training: How it is trained.

    Returns:
        Bytes by part.
    """
    gradient, optimizer, host = _adapter_state(training)
    return Memory(
        weights=_weight_bytes(architecture, training),
        adapter=training.adapter.total * _adapter_value_bytes(training),
        gradient=gradient,
        optimizer=optimizer,
        communication=_communication_bytes(architecture, training),
        context=CONTEXT_BYTES,
        saved=saved_bytes(architecture, batch, training),
        vision=_vision_bytes(architecture, batch, training),
        logits=_logit_bytes(architecture, batch, training),
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
        num_bytes += _cast_bytes(training, num_values=training.adapter.whole_projector)  # it is not recomputed
    else:
        num_bytes += architecture.num_hidden_layers * _language_block_bytes(architecture, batch, training)
        num_bytes += _cast_bytes(training, num_values=training.adapter.total)
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
        num_bytes += _cast_bytes(training, num_values=training.adapter.language // architecture.num_hidden_layers)
    return num_bytes


def _cast_bytes(training: Training, *, num_values: int) -> int:
    """Returns bytes of the copies that autocast makes of the adapter's weights."""
    return num_values * training.dtype_bytes if training.precision.is_autocast else 0


def _vision_bytes(architecture: Architecture, batch: Batch, training: Training) -> int:
    precision = training.precision
    if not training.adapter.tower:
        precision = replace(precision, is_autocast=False)  # a frozen tower computes in its own precision
    per_position = tower_working_bytes(architecture, precision=precision)
    return batch.num_tower_frames * architecture.vision.num_positions * per_position


def _logit_bytes(architecture: Architecture, batch: Batch, training: Training) -> int:
    if training.scores_all_tokens:
        return batch.num_tokens * architecture.vocab_size * LOGIT_BYTES
    num_scored = batch.num_label_tokens
    at_once = num_scored if training.chunk_tokens is None else min(training.chunk_tokens, num_scored)
    # the rows that are scored are gathered, and have a gradient
    gathered = 2 * num_scored * architecture.hidden_size * training.dtype_bytes
    return at_once * architecture.vocab_size * LOGIT_BYTES + gathered


def _weight_bytes(architecture: Architecture, training: Training) -> int:
    hosted = architecture.parameters.embedding if training.embeddings_on_cpu else 0
    num_bytes = weight_bytes(
        PARTS,
        architecture.shapes,
        value_bytes=training.dtype_bytes,
        quantize=training.quantize,
        with_tower=training.has_tower,
    )
    num_bytes -= hosted * training.dtype_bytes
    if not training.is_deepspeed:  # peft copies the projector that is trained from one in fp32, which stays
        num_bytes += training.adapter.whole_projector * (FP32_BYTES - training.dtype_bytes)
    if training.strategy != "zero3":
        return num_bytes
    num_values = num_bytes // training.dtype_bytes  # ZeRO-3 takes no quantized weights
    return (_share(num_values, training.num_ranks) + min(GATHERED_VALUES, num_values)) * training.dtype_bytes


def _adapter_value_bytes(training: Training) -> int:
    return training.dtype_bytes if training.is_deepspeed else FP32_BYTES


def _adapter_state(training: Training) -> tuple[int, int, int]:
    """Returns bytes of gradients, of the optimizer, and of the optimizer on the host.

    DDP keeps all on every rank. ZeRO-1 shards the optimizer, ZeRO-2 and 3 the gradients too. DeepSpeed keeps fp32 weights
    beside bf16 ones for AdamW, and its gradients in the model's precision.
    """
    num_values, strategy = training.adapter.total, training.strategy
    if not training.is_deepspeed:
        return num_values * FP32_BYTES, num_values * ADAM_MOMENTS * FP32_BYTES, 0
    shard = _share(num_values, training.num_ranks)
    optimizer = shard * (1 + ADAM_MOMENTS) * FP32_BYTES
    if strategy == "zero2_offload":
        # the host holds the fp32 gradient of its shard too
        return shard * training.dtype_bytes, 0, optimizer + shard * FP32_BYTES
    gradient = num_values if strategy == "zero1" else shard
    return gradient * training.dtype_bytes, optimizer, 0


def _communication_bytes(architecture: Architecture, training: Training) -> int:
    """Returns bytes of gradient buffers: a copy of the gradients for DDP, DeepSpeed's bucket for ZeRO."""
    if training.strategy == "ddp":
        return training.adapter.total * FP32_BYTES
    if training.strategy == "zero3":
        return architecture.hidden_size**2 * training.dtype_bytes  # what transformers fills in for "auto"
    return BUCKET_VALUES * training.dtype_bytes if training.is_deepspeed else 0


def _share(num_values: int, num_ranks: int) -> int:
    return -(-num_values // num_ranks)
