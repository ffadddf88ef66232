"""Names of the parts of the loaded model. No torch.

Cached features are taken behind the projector, so that without the tower neither of them is loaded.
"""

from __future__ import annotations

from cvft.families.internvl.tensors import DECODER, OUTPUT_LAYER, PROJECTOR, TOWER
from cvft.families.names import ATTENTION_ALIASES, MLP_ALIASES
from cvft.families.parts import Parts

QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")

PARTS = Parts(
    block=r"model\.language_model\.layers\.\d+",
    qkv=QKV,
    linear=(*QKV, "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
    tower_linear=(
        r"model\.vision_tower\.encoder\.layer\.\d+\."
        r"(attention\.(q_proj|k_proj|v_proj|projection_layer)|mlp\.(fc1|fc2))"
    ),
    projector_linear=r"model\.multi_modal_projector\.(linear_1|linear_2)",
    embedding=f"{DECODER}.embed_tokens.weight",
    output_layer=OUTPUT_LAYER,
    tower=(f"{TOWER}.",),
    vision=f"{TOWER}.",
    projector=(PROJECTOR,),
    layers=f"{DECODER}.layers",
    cached=(f"{TOWER}.", f"{PROJECTOR}."),
    aliases={**ATTENTION_ALIASES, **MLP_ALIASES},
)
"""Source: transformers 5.19's module names."""
