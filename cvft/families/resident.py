"""What lies on a GPU in training besides activations, for any family: weights, the adapter's state, buffers, the loss. No torch.

tensors + `Parts` + how it is trained -> bytes by part of one rank
"""

from __future__ import annotations

from collections.abc import Mapping

from cvft.families.costs import FP32_BYTES, Training
from cvft.families.parts import Parts, Shape, count_parameters, weight_bytes

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


def resident_weight_bytes(parts: Parts, shapes: Mapping[str, Shape], training: Training) -> int:
    """Counts the frozen weights, with what ZeRO-3 gathers of them.

    Args:
        parts: The model's parts.
        shapes: Its tensors.
        training: How it is trained.
    """
    hosted = count_parameters(parts, shapes).embedding if training.embeddings_on_cpu else 0
    num_bytes = weight_bytes(
        parts,
        shapes,
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


def adapter_bytes(training: Training) -> int:
    """Counts the trainable weights."""
    return training.adapter.total * (training.dtype_bytes if training.is_deepspeed else FP32_BYTES)


def adapter_state(training: Training) -> tuple[int, int, int]:
    """Returns bytes of gradients, of the optimizer, and of the optimizer on the host.

    DDP keeps all on every rank. ZeRO-1 shards the optimizer, ZeRO-2 and 3 the gradients too. DeepSpeed keeps fp32 weights
    beside bf16 ones for AdamW, and its gradients in the model's precision.

    Args:
        training: How it is trained.
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


def communication_bytes(training: Training, *, width: int) -> int:
    """Returns bytes of gradient buffers: a copy of the gradients for DDP, DeepSpeed's bucket for ZeRO.

    Args:
        training: How it is trained.
        width: Width of the decoder.
    """
    if training.strategy == "ddp":
        return training.adapter.total * FP32_BYTES
    if training.strategy == "zero3":
        return width**2 * training.dtype_bytes  # what transformers fills in for "auto"
    return BUCKET_VALUES * training.dtype_bytes if training.is_deepspeed else 0


def cast_bytes(training: Training, *, num_values: int) -> int:
    """Returns bytes of the copies that autocast makes of the adapter's weights.

    Args:
        training: How it is trained.
        num_values: Weights.
    """
    return num_values * training.dtype_bytes if training.precision.is_autocast else 0


def logit_bytes(training: Training, *, num_tokens: int, num_label_tokens: int, vocab_size: int, width: int) -> int:
    """Counts the loss at the head of the backward pass.

    Args:
        training: How it is trained.
        num_tokens: Tokens that are computed.
        num_label_tokens: Tokens that are trained on.
        vocab_size: Rows of the output layer.
        width: Width of the decoder.
    """
    if training.scores_all_tokens:
        return num_tokens * vocab_size * LOGIT_BYTES
    at_once = num_label_tokens if training.chunk_tokens is None else min(training.chunk_tokens, num_label_tokens)
    # the rows that are scored are gathered, and have a gradient
    gathered = 2 * num_label_tokens * width * training.dtype_bytes
    return at_once * vocab_size * LOGIT_BYTES + gathered


def _share(num_values: int, num_ranks: int) -> int:
    return -(-num_values // num_ranks)
