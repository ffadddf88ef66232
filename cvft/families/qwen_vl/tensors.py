"""The tensors of a checkpoint, with shapes that follow from config.json. No torch.

`Sizes` -> `loaded_shapes` (names in the model that transformers loads) -> `published_shapes` (names in the files)

Source of names and shapes: transformers 5.19's classes; `tests/test_qwen_tensors.py` compares with them and with the
files that they save.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cvft.families.parts import Shape
from cvft.families.qwen_vl.sizes import (
    FULL_ATTENTION,
    QWEN2_5_VL,
    QWEN3_VL_MOE,
    DeltaNetSizes,
    ExpertSizes,
    Sizes,
    TowerSizes,
)

VISION, DECODER = "model.visual", "model.language_model"
"""Where tower and decoder lie in the loaded model."""

VISION_PREFIXES = ("visual.", "model.visual.")
"""What the names of the tower's and the mergers' tensors start with in files, of all these families."""

EXTRA_LAYERS = "mtp."
"""Where files of Qwen3.5 hold blocks that predict further tokens, in layouts that differ from release to release. Source: their
indexes; transformers' classes leave them out, and files that transformers saved have none."""

OUTPUT_LAYER = "lm_head.weight"


def published_shapes(config: Mapping[str, Any]) -> dict[str, Shape]:
    """Lists what of a checkpoint's files the model loads, as its makers published them.

    Dense models that transformers saves have the same names and shapes. Experts that it saves lie in other layouts: those of
    Qwen3-VL the other way round, those of Qwen3.5 one by one.

    Args:
        config: Values of a config.json.

    Returns:
        Name in the files -> shape.

    Raises:
        KeyError: when config.json lacks a size.
    """
    return dict(_published(Sizes.from_config(config)))


def loaded_shapes(sizes: Sizes) -> dict[str, Shape]:
    """Lists the tensors of the loaded model.

    Args:
        sizes: The model's sizes.

    Returns:
        Name -> shape, without an output layer that is the embedding.
    """
    return dict(_loaded(sizes))


def module_of(tensor: str) -> str | None:
    """Returns the name in the loaded model of a tensor's name in the files, or None where the model leaves it out.

    Source: transformers' conversion of names; Qwen2.5-VL's files are named after an older class.
    """
    if tensor.startswith(EXTRA_LAYERS):
        return None
    if tensor.startswith("visual."):
        return f"model.{tensor}"
    if tensor.startswith("model.") and not tensor.startswith((f"{DECODER}.", f"{VISION}.")):
        return f"{DECODER}.{tensor.removeprefix('model.')}"
    return tensor


def _published(sizes: Sizes) -> Iterator[tuple[str, Shape]]:
    for name, shape in _loaded(sizes):
        if sizes.model_type == QWEN2_5_VL:
            yield name.replace(f"{VISION}.", "visual.").replace(f"{DECODER}.", "model."), shape
        elif sizes.model_type == QWEN3_VL_MOE and ".experts." in name:
            yield name, (shape[0], shape[2], shape[1])  # its files hold each expert the other way round
        else:
            yield name, shape


def _loaded(sizes: Sizes) -> Iterator[tuple[str, Shape]]:
    yield from _tower(sizes.tower)
    width = sizes.hidden_size
    yield f"{DECODER}.embed_tokens.weight", (sizes.vocab_size, width)
    for number, kind in enumerate(sizes.layer_types):
        layer = f"{DECODER}.layers.{number}"
        if kind == FULL_ATTENTION:
            yield from _attention(f"{layer}.self_attn", sizes)
        else:
            assert sizes.delta_net is not None, "only hybrid decoders have other kinds"
            yield from _delta_net(f"{layer}.linear_attn", sizes.delta_net, width)
        if sizes.experts is None or number in sizes.experts.dense_layers:
            yield from _mlp(f"{layer}.mlp", width, sizes.intermediate_size)
        else:
            yield from _experts(f"{layer}.mlp", sizes.experts, width)
        yield from _layer_norms(layer, width)
    yield f"{DECODER}.norm.weight", (width,)
    if not sizes.ties_embeddings:  # else the output layer is the embedding, and is not stored
        yield OUTPUT_LAYER, (sizes.vocab_size, width)


def _attention(name: str, sizes: Sizes) -> Iterator[tuple[str, Shape]]:
    width = sizes.hidden_size
    queries = sizes.query_width * (2 if sizes.has_output_gate else 1)
    for layer, num_out in (("q_proj", queries), ("k_proj", sizes.key_value_width), ("v_proj", sizes.key_value_width)):
        yield from _linear(f"{name}.{layer}", num_out, width, bias=sizes.has_qkv_bias)
    yield from _linear(f"{name}.o_proj", width, sizes.query_width, bias=sizes.has_output_bias)
    if sizes.has_qk_norm:
        yield f"{name}.q_norm.weight", (sizes.head_dim,)
        yield f"{name}.k_norm.weight", (sizes.head_dim,)


def _delta_net(name: str, sizes: DeltaNetSizes, width: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.dt_bias", (sizes.num_value_heads,)
    yield f"{name}.A_log", (sizes.num_value_heads,)
    yield f"{name}.conv1d.weight", (sizes.qkv_width, 1, sizes.kernel_size)
    yield f"{name}.norm.weight", (sizes.value_head_dim,)
    yield f"{name}.out_proj.weight", (width, sizes.value_width)
    yield f"{name}.in_proj_qkv.weight", (sizes.qkv_width, width)
    yield f"{name}.in_proj_z.weight", (sizes.value_width, width)
    yield f"{name}.in_proj_b.weight", (sizes.num_value_heads, width)
    yield f"{name}.in_proj_a.weight", (sizes.num_value_heads, width)


def _mlp(name: str, width: int, inner: int, *, bias: bool = False) -> Iterator[tuple[str, Shape]]:
    yield from _linear(f"{name}.gate_proj", inner, width, bias=bias)
    yield from _linear(f"{name}.up_proj", inner, width, bias=bias)
    yield from _linear(f"{name}.down_proj", width, inner, bias=bias)


def _experts(name: str, sizes: ExpertSizes, width: int) -> Iterator[tuple[str, Shape]]:
    inner = sizes.intermediate_size
    yield f"{name}.gate.weight", (sizes.num_experts, width)
    yield f"{name}.experts.gate_up_proj", (sizes.num_experts, 2 * inner, width)
    yield f"{name}.experts.down_proj", (sizes.num_experts, width, inner)
    if sizes.shared_size:
        yield from _mlp(f"{name}.shared_expert", width, sizes.shared_size)
        yield f"{name}.shared_expert_gate.weight", (1, width)


def _layer_norms(layer: str, width: int) -> Iterator[tuple[str, Shape]]:
    yield f"{layer}.input_layernorm.weight", (width,)
    yield f"{layer}.post_attention_layernorm.weight", (width,)


def _tower(tower: TowerSizes) -> Iterator[tuple[str, Shape]]:
    width, inner = tower.hidden_size, tower.intermediate_size
    patch = (tower.in_channels, tower.temporal_patch_size, tower.patch_size, tower.patch_size)
    has_bias = not tower.has_gated_mlp  # of norms and patch embedding
    yield from _with_bias(f"{VISION}.patch_embed.proj", (width, *patch), bias=has_bias)
    if tower.num_positions:
        yield f"{VISION}.pos_embed.weight", (tower.num_positions, width)
    for number in range(tower.depth):
        block = f"{VISION}.blocks.{number}"
        yield from _with_bias(f"{block}.norm1", (width,), bias=has_bias)
        yield from _with_bias(f"{block}.norm2", (width,), bias=has_bias)
        yield from _linear(f"{block}.attn.qkv", 3 * width, width)
        yield from _linear(f"{block}.attn.proj", width, width)
        if tower.has_gated_mlp:
            yield from _mlp(f"{block}.mlp", width, inner, bias=True)
        else:
            yield from _linear(f"{block}.mlp.linear_fc1", inner, width)
            yield from _linear(f"{block}.mlp.linear_fc2", width, inner)
    merged, num_out = tower.merged_size, tower.out_hidden_size
    if tower.has_gated_mlp:
        yield f"{VISION}.merger.ln_q.weight", (width,)
        yield from _linear(f"{VISION}.merger.mlp.0", merged, merged)
        yield from _linear(f"{VISION}.merger.mlp.2", num_out, merged)
        return
    mergers = [("merger", width), *((f"deepstack_merger_list.{i}", merged) for i in range(tower.num_levels - 1))]
    for merger, normed in mergers:  # the last output is normed patch by patch, a deep one after merging
        yield from _with_bias(f"{VISION}.{merger}.norm", (normed,))
        yield from _linear(f"{VISION}.{merger}.linear_fc1", merged, merged)
        yield from _linear(f"{VISION}.{merger}.linear_fc2", num_out, merged)


def _linear(name: str, num_out: int, num_in: int, *, bias: bool = True) -> Iterator[tuple[str, Shape]]:
    yield from _with_bias(name, (num_out, num_in), bias=bias)


def _with_bias(name: str, shape: Shape, *, bias: bool = True) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", shape
    if bias:
        yield f"{name}.bias", shape[:1]
