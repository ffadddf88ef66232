"""The tensors of a checkpoint by their published names, with shapes that follow from config.json. No torch.

They stand in the order in which the published code defines its modules: that order decides what lies in which shard.
Source: the published state-dict keys and shapes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cvft.families.parts import Parts, Shape

POOLED_SIDE = 2
"""Side of the pooling convolution in patches. Source: the published `visual.py`."""

PUBLISHED_SIZES: dict[str, Any] = {
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_multi_query_heads": 8,
    "vision_config": {
        "hidden_size": 1792,
        "intermediate_size": 15360,
        "num_hidden_layers": 63,
        "num_heads": 16,
        "patch_size": 14,
        "in_channels": 3,
        "num_positions": 257,
    },
}
"""Sizes of the published checkpoints. Source: their config.json."""

ROPE_THETA = 500000.0
"""Base of the rotary frequencies. Source: hard-coded in the published modelling file, absent from its config.json."""

TOWER_PREFIX = "model.vision."
"""Where vision tower, projector and frame markers lie among the published keys."""

TOWER_PARTS = ("patch_embedding", "transformer", "conv")
"""Modules under `TOWER_PREFIX` that frames pass through before the projector."""

QKV = "language_expert_query_key_value"
"""Last name of the one layer that makes queries, keys and values."""

PARTS = Parts(
    block=r"model\.layers\.\d+",
    qkv=("self_attn.language_expert_query_key_value",),
    linear=(
        "self_attn.language_expert_query_key_value",
        "self_attn.language_expert_dense",
        "mlp.language_mlp.gate_proj",
        "mlp.language_mlp.up_proj",
        "mlp.language_mlp.down_proj",
    ),
    tower_linear=r"model\.vision\.transformer\.layers\.\d+\.(attention\.(query_key_value|dense)|mlp\.(fc1|fc2))",
    projector_linear=r"model\.vision\.linear_proj\.(linear_proj|gate_proj|dense_h_to_4h|dense_4h_to_h)",
    embedding="model.embed_tokens.weight",
    output_layer="lm_head.weight",
    tower=tuple(f"{TOWER_PREFIX}{part}." for part in TOWER_PARTS),
    vision=TOWER_PREFIX,
    projector=("model.vision.linear_proj",),
    layers="model.layers",
    buffers=r".*\.rotary_emb\.inv_freq",
    aliases={
        **dict.fromkeys(("q_proj", "k_proj", "v_proj", "q", "k", "v", "wq", "wk", "wv"), QKV),
        **dict.fromkeys(("qkv", "qkv_proj", "query_key_value", "c_attn", "w_pack", "wqkv"), QKV),
        **dict.fromkeys(("o_proj", "out_proj", "dense", "c_proj", "wo"), "language_expert_dense"),
        **dict.fromkeys(("w1", "gate"), "gate_proj"),
        **dict.fromkeys(("w3", "up", "dense_h_to_4h"), "up_proj"),
        **dict.fromkeys(("w2", "down", "dense_4h_to_h"), "down_proj"),
    },
)
"""Names of the parts. Source: the published state-dict keys; the aliases are names of Llama, GPT-2, Baichuan and ChatGLM."""


def published_shapes(config: Mapping[str, Any]) -> dict[str, Shape]:
    """Lists what a checkpoint holds, buffers included.

    Args:
        config: Values of a config.json as `read_config_json` returns them; every size is stated there.

    Returns:
        Name -> shape, in the published order.

    Raises:
        KeyError: when config.json lacks a size.
    """
    return dict(_published(config))


def _published(config: Mapping[str, Any]) -> Iterator[tuple[str, Shape]]:
    width, inner, vocabulary = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    head_dim = width // config["num_attention_heads"]
    yield "model.embed_tokens.weight", (vocabulary, width)
    for number in range(config["num_hidden_layers"]):
        layer = f"model.layers.{number}"
        yield f"{layer}.self_attn.rotary_emb.inv_freq", (head_dim // 2,)
        num_rows = width + 2 * config["num_multi_query_heads"] * head_dim
        yield f"{layer}.self_attn.language_expert_query_key_value.weight", (num_rows, width)
        yield f"{layer}.self_attn.language_expert_dense.weight", (width, width)
        yield f"{layer}.mlp.language_mlp.gate_proj.weight", (inner, width)
        yield f"{layer}.mlp.language_mlp.up_proj.weight", (inner, width)
        yield f"{layer}.mlp.language_mlp.down_proj.weight", (width, inner)
        yield f"{layer}.input_layernorm.weight", (width,)
        yield f"{layer}.post_attention_layernorm.weight", (width,)
    yield "model.norm.weight", (width,)
    yield from _vision(config["vision_config"], language_width=width, language_inner=inner)
    if not config.get("tie_word_embeddings", False):  # else the output layer is the embedding, and is not stored
        yield "lm_head.weight", (vocabulary, width)


def _vision(config: Mapping[str, Any], *, language_width: int, language_inner: int) -> Iterator[tuple[str, Shape]]:
    width, inner, patch = config["hidden_size"], config["intermediate_size"], config["patch_size"]
    vision = "model.vision"
    yield f"{vision}.boi", (1, 1, language_width)
    yield f"{vision}.eoi", (1, 1, language_width)
    yield f"{vision}.patch_embedding.cls_embedding", (1, width)
    yield from _with_bias(f"{vision}.patch_embedding.proj", (width, config["in_channels"], patch, patch))
    yield f"{vision}.patch_embedding.position_embedding.weight", (config["num_positions"], width)
    for number in range(config["num_hidden_layers"]):
        layer = f"{vision}.transformer.layers.{number}"
        yield from _with_bias(f"{layer}.input_layernorm", (width,))
        yield from _with_bias(f"{layer}.attention.query_key_value", (3 * width, width))
        yield from _with_bias(f"{layer}.attention.dense", (width, width))
        yield from _with_bias(f"{layer}.mlp.fc1", (inner, width))
        yield from _with_bias(f"{layer}.mlp.fc2", (width, inner))
        yield from _with_bias(f"{layer}.post_attention_layernorm", (width,))
    projector = f"{vision}.linear_proj"
    yield f"{projector}.linear_proj.weight", (language_width, width)
    yield from _with_bias(f"{projector}.norm1", (language_width,))
    yield f"{projector}.gate_proj.weight", (language_inner, language_width)
    yield f"{projector}.dense_h_to_4h.weight", (language_inner, language_width)
    yield f"{projector}.dense_4h_to_h.weight", (language_width, language_inner)
    yield from _with_bias(f"{vision}.conv", (width, width, POOLED_SIDE, POOLED_SIDE))


def _with_bias(name: str, shape: Shape) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]
