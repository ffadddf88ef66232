"""Names of the parts of each loaded model. No torch.

`all-linear` means every `nn.Linear` of the decoder blocks. Experts are none in transformers 5: each block's lie in two tensors of
three dimensions, which peft's layers do not fit, so they stay as they are. So does the router, which is a parameter of its own.

Cached features are taken behind the mergers, so that without the tower nothing of `model.visual` is loaded.
"""

from __future__ import annotations

from dataclasses import replace

from cvft.families.names import ATTENTION_ALIASES, MLP_ALIASES
from cvft.families.parts import Parts
from cvft.families.qwen_vl.sizes import QWEN2_5_VL, QWEN3_5, QWEN3_5_MOE, QWEN3_VL, QWEN3_VL_MOE
from cvft.families.qwen_vl.tensors import DECODER, OUTPUT_LAYER, VISION

QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
ATTENTION = (*QKV, "self_attn.o_proj")
MLP = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
SHARED_EXPERT = (
    "mlp.shared_expert.gate_proj",
    "mlp.shared_expert.up_proj",
    "mlp.shared_expert.down_proj",
    "mlp.shared_expert_gate",
)
DELTA_QKV = "linear_attn.in_proj_qkv"
DELTA_NET = (
    DELTA_QKV,
    "linear_attn.in_proj_z",
    "linear_attn.in_proj_b",
    "linear_attn.in_proj_a",
    "linear_attn.out_proj",
)

_QWEN3_VL = Parts(
    block=r"model\.language_model\.layers\.\d+",
    qkv=QKV,
    linear=(*ATTENTION, *MLP),
    tower_linear=r"model\.visual\.blocks\.\d+\.(attn\.(qkv|proj)|mlp\.(linear_fc1|linear_fc2))",
    projector_linear=r"model\.visual\.(merger|deepstack_merger_list\.\d+)\.(linear_fc1|linear_fc2)",
    embedding=f"{DECODER}.embed_tokens.weight",
    output_layer=OUTPUT_LAYER,
    tower=tuple(f"{VISION}.{part}." for part in ("patch_embed", "pos_embed", "blocks")),
    vision=f"{VISION}.",
    projector=(f"{VISION}.merger", f"{VISION}.deepstack_merger_list"),
    layers=f"{DECODER}.layers",
    cached=(f"{VISION}.",),
    aliases={**ATTENTION_ALIASES, **MLP_ALIASES},
)

_QWEN3_5 = replace(
    _QWEN3_VL,
    qkv=(*QKV, DELTA_QKV),
    linear=(*ATTENTION, *DELTA_NET, *MLP),
    projector_linear=r"model\.visual\.merger\.(linear_fc1|linear_fc2)",
    projector=(f"{VISION}.merger",),
)

PARTS = {
    QWEN2_5_VL: replace(
        _QWEN3_VL,
        tower_linear=r"model\.visual\.blocks\.\d+\.(attn\.(qkv|proj)|mlp\.(gate_proj|up_proj|down_proj))",
        projector_linear=r"model\.visual\.merger\.mlp\.(0|2)",
        projector=(f"{VISION}.merger",),
    ),
    QWEN3_VL: _QWEN3_VL,
    QWEN3_VL_MOE: replace(_QWEN3_VL, linear=ATTENTION, aliases=ATTENTION_ALIASES),
    QWEN3_5: _QWEN3_5,
    QWEN3_5_MOE: replace(_QWEN3_5, linear=(*ATTENTION, *DELTA_NET, *SHARED_EXPERT)),
}
"""Parts by `model_type`. Source: transformers 5.19's module names. Published mixtures of experts have no dense block; one that
had would keep its MLP as it is too."""
