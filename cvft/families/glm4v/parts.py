"""Names of the parts of the loaded model. No torch.

Cached features are taken behind the merger, so that without the tower nothing of `model.visual` is loaded.
"""

from __future__ import annotations

from cvft.families.glm4v.tensors import DECODER, OUTPUT_LAYER, VISION
from cvft.families.names import ATTENTION_ALIASES, MLP_ALIASES
from cvft.families.parts import Parts

QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")

PARTS = Parts(
    block=r"model\.language_model\.layers\.\d+",
    qkv=QKV,
    linear=(*QKV, "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj"),
    tower_linear=r"model\.visual\.blocks\.\d+\.(attn\.(qkv|proj)|mlp\.(gate_proj|up_proj|down_proj))",
    projector_linear=r"model\.visual\.merger\.(proj|gate_proj|up_proj|down_proj)",
    embedding=f"{DECODER}.embed_tokens.weight",
    output_layer=OUTPUT_LAYER,
    tower=tuple(
        f"{VISION}.{part}." for part in ("embeddings", "patch_embed", "blocks", "post_conv_layernorm", "post_layernorm")
    ),
    vision=f"{VISION}.",
    projector=(f"{VISION}.downsample", f"{VISION}.merger"),
    layers=f"{DECODER}.layers",
    cached=(f"{VISION}.",),
    aliases={
        **ATTENTION_ALIASES,
        **MLP_ALIASES,
        **dict.fromkeys(("gate", "up", "w1", "w3", "gate_proj", "up_proj", "dense_h_to_4h"), "gate_up_proj"),
    },
)
"""Source: transformers 5.19's module names."""
