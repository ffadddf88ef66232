"""The tensors of a checkpoint, with shapes that follow from config.json. No torch.

`Sizes` -> `loaded_shapes` (names in the model that transformers loads) -> `published_shapes` (names in the files)

Source of names and shapes: transformers 5.19's classes; `tests/test_internvl_tensors.py` compares with them and with the files
that they save. Published files are named after an older form of the class; both forms are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cvft.families.internvl.sizes import Sizes, TowerSizes
from cvft.families.parts import Shape

TOWER, PROJECTOR, DECODER = "model.vision_tower", "model.multi_modal_projector", "model.language_model"
"""Where tower, projector and decoder lie in the loaded model."""

VISION_PREFIXES = ("vision_tower.", "multi_modal_projector.", f"{TOWER}.", f"{PROJECTOR}.")
"""What the names of the tower's and the projector's tensors start with in files."""

OUTPUT_LAYER = "lm_head.weight"

_OLDER = {f"{DECODER}.": "language_model.model.", "lm_head.": "language_model.lm_head.", "model.": ""}
"""How files spell the names of the loaded model: by their beginnings, the first that fits. Source: transformers' conversion of
names, which its saving turns around."""


def published_shapes(config: Mapping[str, Any]) -> dict[str, Shape]:
    """Lists a checkpoint's tensors, as transformers saves them.

    Args:
        config: Values of a config.json.

    Returns:
        Name in the files -> shape.

    Raises:
        KeyError: when config.json lacks a size.
    """
    return {_in_files(name): shape for name, shape in _loaded(Sizes.from_config(config))}


def loaded_shapes(sizes: Sizes) -> dict[str, Shape]:
    """Lists the tensors of the loaded model.

    Args:
        sizes: The model's sizes.

    Returns:
        Name -> shape, without an output layer that is the embedding.
    """
    return dict(_loaded(sizes))


def module_of(tensor: str) -> str:
    """Returns the name in the loaded model of a tensor's name in the files, of the older form or of today's."""
    for module, older in _OLDER.items():
        if older and tensor.startswith(older):
            return module + tensor.removeprefix(older)
    return f"model.{tensor}" if tensor.startswith(VISION_PREFIXES[:2]) else tensor


def _in_files(module: str) -> str:
    for beginning, older in _OLDER.items():
        if module.startswith(beginning):
            return older + module.removeprefix(beginning)
    return module


def _loaded(sizes: Sizes) -> Iterator[tuple[str, Shape]]:
    yield from _tower(sizes.tower)
    merged, width = sizes.tower.merged_size, sizes.hidden_size
    yield from _with_bias(f"{PROJECTOR}.layer_norm", (merged,))
    yield from _with_bias(f"{PROJECTOR}.linear_1", (width, merged))
    yield from _with_bias(f"{PROJECTOR}.linear_2", (width, width))
    yield f"{DECODER}.embed_tokens.weight", (sizes.vocab_size, width)
    for number in range(sizes.num_layers):
        yield from _block(f"{DECODER}.layers.{number}", sizes)
    yield f"{DECODER}.norm.weight", (width,)
    if not sizes.ties_embeddings:  # else the output layer is the embedding, and is not stored
        yield OUTPUT_LAYER, (sizes.vocab_size, width)


def _block(layer: str, sizes: Sizes) -> Iterator[tuple[str, Shape]]:
    width, inner = sizes.hidden_size, sizes.intermediate_size
    queries, others = sizes.num_heads * sizes.head_dim, sizes.num_key_value_heads * sizes.head_dim
    for name, num_out in (("q_proj", queries), ("k_proj", others), ("v_proj", others)):
        yield from _with_bias(f"{layer}.self_attn.{name}", (num_out, width), bias=sizes.has_qkv_bias)
    yield from _with_bias(f"{layer}.self_attn.o_proj", (width, queries), bias=sizes.has_output_bias)
    if sizes.has_qk_norm:
        yield f"{layer}.self_attn.q_norm.weight", (sizes.head_dim,)
        yield f"{layer}.self_attn.k_norm.weight", (sizes.head_dim,)
    yield f"{layer}.mlp.gate_proj.weight", (inner, width)
    yield f"{layer}.mlp.up_proj.weight", (inner, width)
    yield f"{layer}.mlp.down_proj.weight", (width, inner)
    yield f"{layer}.input_layernorm.weight", (width,)
    yield f"{layer}.post_attention_layernorm.weight", (width,)


def _tower(tower: TowerSizes) -> Iterator[tuple[str, Shape]]:
    width, inner = tower.hidden_size, tower.intermediate_size
    embeddings = f"{TOWER}.embeddings"
    yield f"{embeddings}.cls_token", (1, 1, width)
    yield f"{embeddings}.position_embeddings", (1, tower.patches_per_side**2 + 1, width)
    patch = (tower.num_channels, tower.patch_size, tower.patch_size)
    yield from _with_bias(f"{embeddings}.patch_embeddings.projection", (width, *patch))
    for number in range(tower.depth):
        block = f"{TOWER}.encoder.layer.{number}"
        yield f"{block}.lambda_1", (width,)
        yield f"{block}.lambda_2", (width,)
        for name in ("q_proj", "k_proj", "v_proj"):
            yield from _with_bias(f"{block}.attention.{name}", (width, width), bias=tower.has_qkv_bias)
        yield from _with_bias(f"{block}.attention.projection_layer", (width, width))
        if tower.has_qk_norm:
            yield f"{block}.attention.q_norm.weight", (width,)
            yield f"{block}.attention.k_norm.weight", (width,)
        yield from _with_bias(f"{block}.mlp.fc1", (inner, width))
        yield from _with_bias(f"{block}.mlp.fc2", (width, inner))
        yield from _with_bias(f"{block}.layernorm_before", (width,), bias=tower.has_norm_bias)
        yield from _with_bias(f"{block}.layernorm_after", (width,), bias=tower.has_norm_bias)


def _with_bias(name: str, shape: Shape, *, bias: bool = True) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", shape
    if bias:
        yield f"{name}.bias", shape[:1]
