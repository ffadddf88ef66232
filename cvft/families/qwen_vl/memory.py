"""How much memory of a GPU a training step of Qwen-VL takes at its peak, by counting what lies there. A model, not a measurement.

`Sizes` + `Batch` + how it is trained -> `Memory` (bytes by part of one rank)

Counted are tensors. What the allocator loses to fragments and what kernels take inside (cuBLAS, attention backward) is
not; leave room for it. Eager attention, which keeps every weight, and DoRA's own intermediates are not modelled. Recurrent blocks
are counted as transformers computes them by itself; kernels of others keep less.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from cvft.families.costs import Batch, Linear, Memory, Training
from cvft.families.parts import linears_of
from cvft.families.qwen_vl.activations import (
    adapters_bytes,
    backward_bytes,
    delta_net_bytes,
    kernel_bytes,
    merger_bytes,
    mlp_bytes,
    projections_bytes,
    rms_norm_bytes,
    tower_layer_bytes,
    tower_working_bytes,
)
from cvft.families.qwen_vl.flops import chunked_tokens, delta_runs
from cvft.families.qwen_vl.parts import PARTS
from cvft.families.qwen_vl.sizes import FULL_ATTENTION, Sizes
from cvft.families.qwen_vl.tensors import DECODER, VISION, loaded_shapes
from cvft.families.resident import (
    CONTEXT_BYTES,
    adapter_bytes,
    adapter_state,
    cast_bytes,
    communication_bytes,
    logit_bytes,
    resident_weight_bytes,
)


def peak_memory(sizes: Sizes, batch: Batch, training: Training) -> Memory:
    """Counts the memory of one rank.

    Args:
        sizes: The model's sizes.
        batch: Its largest micro-batch.
        training: How it is trained.

    Returns:
        Bytes by part.
    """
    gradient, optimizer, host = adapter_state(training)
    return Memory(
        weights=resident_weight_bytes(PARTS[sizes.model_type], loaded_shapes(sizes), training),
        adapter=adapter_bytes(training),
        gradient=gradient,
        optimizer=optimizer,
        communication=communication_bytes(training, width=sizes.hidden_size),
        context=CONTEXT_BYTES,
        saved=saved_bytes(sizes, batch, training),
        vision=_vision_bytes(sizes, batch, training),
        logits=logit_bytes(
            training,
            num_tokens=batch.num_tokens,
            num_label_tokens=batch.num_label_tokens,
            vocab_size=sizes.vocab_size,
            width=sizes.hidden_size,
        ),
        layer=_layer_bytes(sizes, batch, training),
        host=host,
    )


def saved_bytes(sizes: Sizes, batch: Batch, training: Training) -> int:
    """Counts the activations that wait for the backward pass, without those of the loss.

    Without recomputation all that `activations.py` lists, of every block; with it the input of every block and the embeddings,
    which `enable_input_require_grads` makes a leaf then. The first block's first norm is among them, though it saves nothing when
    its input needs no gradient.

    Args:
        sizes: The model's sizes.
        batch: The micro-batch.
        training: How it is trained.

    Returns:
        Bytes.
    """
    tokens, value_bytes = batch.num_tokens, training.precision.dtype_bytes
    num_bytes = tokens * rms_norm_bytes(sizes.hidden_size)  # the norm after the last block
    num_bytes += 2 * tokens * sizes.head_dim * value_bytes  # cosines and sines, for all blocks
    if training.recompute:
        num_bytes += (sizes.num_layers + 1) * tokens * sizes.hidden_size * value_bytes
        num_bytes += cast_bytes(training, num_values=training.adapter.whole_projector)  # it is not recomputed
    else:
        num_bytes += sum(_block_bytes(sizes, batch, training, kind=kind) for kind in sizes.layer_types)
        num_bytes += cast_bytes(training, num_values=training.adapter.total)
    return num_bytes + _saved_vision_bytes(sizes, batch, training)


def _saved_vision_bytes(sizes: Sizes, batch: Batch, training: Training) -> int:
    tower, adapter, precision = sizes.tower, training.adapter, training.precision
    num_tokens = sum(clip.num_tokens for clip in batch.clips) if batch.num_tower_frames else 0
    num_bytes = 0
    if adapter.tower:
        block = tower.hidden_size * precision.dtype_bytes  # its input
        if not training.recompute:
            layers = _linears(sizes, f"{VISION}.blocks.0.")
            block = tower_layer_bytes(tower, layers, precision=precision, rank=training.rank)
        num_bytes += num_tokens * tower.patches_per_token * tower.depth * block
    if adapter.tower or adapter.projector or adapter.whole_projector:
        layers = linears_of(loaded_shapes(sizes), PARTS[sizes.model_type].projector_linear)
        num_bytes += num_tokens * merger_bytes(
            tower,
            tuple(layers.values()),
            precision=precision,
            rank=training.rank,
            has_tower_gradient=adapter.tower > 0,
            has_adapter=adapter.projector > 0,
            is_whole=adapter.whole_projector > 0,
        )
    return num_bytes


def _block_bytes(sizes: Sizes, batch: Batch, training: Training, *, kind: str) -> int:
    """Counts what one decoder block keeps of a micro-batch."""
    precision, tokens = training.precision, batch.num_tokens
    layers = _linears(sizes, f"{DECODER}.layers.{sizes.layer_types.index(kind)}.")
    per_token = mlp_bytes(sizes, precision=precision)
    per_token += adapters_bytes(layers, training.adapted, precision=precision, rank=training.rank)
    if kind == FULL_ATTENTION:
        per_token += projections_bytes(sizes, precision=precision)
        kernel = sum(kernel_bytes(sizes, group, dtype_bytes=training.dtype_bytes) for group in batch.groups)
        return tokens * per_token + kernel
    assert sizes.delta_net is not None, "only hybrid decoders have other kinds"
    return tokens * per_token + delta_net_bytes(
        sizes.delta_net,
        precision=precision,
        num_tokens=tokens,
        num_mixed=sum(num * (length + sizes.delta_net.kernel_size - 1) for num, length in delta_runs(batch)),
        num_chunked=chunked_tokens(batch),
    )


def _layer_bytes(sizes: Sizes, batch: Batch, training: Training) -> int:
    num_bytes = batch.num_tokens * backward_bytes(sizes, precision=training.precision)
    if training.quantize != "none":  # one layer's weights at a time are unpacked for the products
        largest = max(linear.weights for linear in _linears(sizes, f"{DECODER}.layers.0.").values())
        num_bytes += largest * training.dtype_bytes
    if training.recompute:
        num_bytes += max(_block_bytes(sizes, batch, training, kind=kind) for kind in set(sizes.layer_types))
        num_bytes += cast_bytes(training, num_values=training.adapter.language // sizes.num_layers)
    return num_bytes


def _vision_bytes(sizes: Sizes, batch: Batch, training: Training) -> int:
    """Counts the tower while it runs: as many patches as all clips of a micro-batch have, for they pass through together."""
    if not batch.num_tower_frames:
        return 0
    precision = training.precision
    if not training.adapter.tower:
        precision = replace(precision, is_autocast=False)  # a frozen tower computes in its own precision
    num_patches = sum(clip.num_tokens for clip in batch.clips) * sizes.tower.patches_per_token
    return num_patches * tower_working_bytes(sizes.tower, precision=precision)


@lru_cache(maxsize=64)
def _linears(sizes: Sizes, prefix: str) -> dict[str, Linear]:
    """Returns the linear layers of one block by their last names."""
    found = linears_of(loaded_shapes(sizes), rf"{prefix.replace('.', '[.]')}.*")
    return {name.rpartition(".")[2]: linear for name, linear in found.items()}
