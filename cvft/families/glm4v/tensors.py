"""The tensors of a checkpoint, with shapes that follow from config.json; files and model use the same names. No torch.

Source of names and shapes: transformers 5.19's classes; `tests/test_glm4v_tensors.py` compares with them and with their files.
"""

from __future__ import annotations

from collections.abc import Iterator

from cvft.families.glm4v.sizes import Sizes, TowerSizes
from cvft.families.parts import Shape

VISION, DECODER = "model.visual", "model.language_model"
"""Where tower and decoder lie in the loaded model."""

OUTPUT_LAYER = "lm_head.weight"


def tensor_shapes(sizes: Sizes) -> dict[str, Shape]:
    """Lists the tensors of a model.

    Args:
        sizes: The model's sizes.

    Returns:
        Name -> shape, without an output layer that is the embedding.
    """
    return dict(_tensors(sizes))


def _tensors(sizes: Sizes) -> Iterator[tuple[str, Shape]]:
    yield from _tower(sizes.tower)
    width, inner = sizes.hidden_size, sizes.intermediate_size
    queries, others = sizes.num_heads * sizes.head_dim, sizes.num_key_value_heads * sizes.head_dim
    yield f"{DECODER}.embed_tokens.weight", (sizes.vocab_size, width)
    for number in range(sizes.num_layers):
        layer = f"{DECODER}.layers.{number}"
        for name, num_out in (("q_proj", queries), ("k_proj", others), ("v_proj", others)):
            yield f"{layer}.self_attn.{name}.weight", (num_out, width)
            yield f"{layer}.self_attn.{name}.bias", (num_out,)
        yield f"{layer}.self_attn.o_proj.weight", (width, queries)
        yield f"{layer}.mlp.gate_up_proj.weight", (2 * inner, width)
        yield f"{layer}.mlp.down_proj.weight", (width, inner)
        for name in ("input", "post_attention", "post_self_attn", "post_mlp"):
            yield f"{layer}.{name}_layernorm.weight", (width,)
    yield f"{DECODER}.norm.weight", (width,)
    if not sizes.ties_embeddings:
        yield OUTPUT_LAYER, (sizes.vocab_size, width)


def _tower(tower: TowerSizes) -> Iterator[tuple[str, Shape]]:
    width, out = tower.hidden_size, tower.out_hidden_size
    patch = (tower.in_channels, tower.temporal_patch_size, tower.patch_size, tower.patch_size)
    yield f"{VISION}.embeddings.position_embedding.weight", (tower.num_positions, width)
    yield f"{VISION}.patch_embed.proj.weight", (width, *patch)
    yield f"{VISION}.patch_embed.proj.bias", (width,)
    for number in range(tower.depth):
        block = f"{VISION}.blocks.{number}"
        yield f"{block}.norm1.weight", (width,)
        yield f"{block}.norm2.weight", (width,)
        yield f"{block}.attn.qkv.weight", (3 * width, width)
        yield f"{block}.attn.proj.weight", (width, width)
        if tower.has_bias:
            yield f"{block}.attn.qkv.bias", (3 * width,)
        yield f"{block}.mlp.gate_proj.weight", (out, width)
        yield f"{block}.mlp.up_proj.weight", (out, width)
        yield f"{block}.mlp.down_proj.weight", (width, out)
    merger, inner = f"{VISION}.merger", tower.merger_size
    yield f"{merger}.proj.weight", (out, out)
    yield f"{merger}.post_projection_norm.weight", (out,)
    yield f"{merger}.post_projection_norm.bias", (out,)
    yield f"{merger}.gate_proj.weight", (inner, out)
    yield f"{merger}.up_proj.weight", (inner, out)
    yield f"{merger}.down_proj.weight", (out, inner)
    yield f"{VISION}.post_conv_layernorm.weight", (width,)
    yield f"{VISION}.downsample.weight", (out, width, tower.spatial_merge_size, tower.spatial_merge_size)
    yield f"{VISION}.downsample.bias", (out,)
    yield f"{VISION}.post_layernorm.weight", (width,)
