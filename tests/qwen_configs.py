"""config.json of the published checkpoints by the name of their size, and tiny ones of the same forms."""

from __future__ import annotations

import json
from typing import Any

from cvft.families.qwen_vl.checkpoints import PUBLISHED_2_5, PUBLISHED_3, PUBLISHED_3_5, PUBLISHED_3_MOE
from cvft.families.qwen_vl.sizes import MODEL_TYPES, QWEN2_5_VL, QWEN3_5, QWEN3_5_MOE, QWEN3_VL, QWEN3_VL_MOE

PUBLISHED = {
    checkpoint.name.removesuffix("-Instruct"): json.loads(json.dumps(checkpoint.config))
    for checkpoint in (*PUBLISHED_2_5, *PUBLISHED_3, *PUBLISHED_3_MOE, *PUBLISHED_3_5)
    if not checkpoint.name.endswith("-Thinking")
}

TOWER = {"depth": 4, "hidden_size": 32, "num_heads": 2, "intermediate_size": 48, "out_hidden_size": 64}
TEXT = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 300,
}
EXPERTS = {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
DELTA = {
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_conv_kernel_dim": 4,
}


def tiny(model_type: str, *, tied: bool = False, **text: Any) -> dict[str, Any]:
    """A tiny config.json in the nested form, which transformers writes."""
    if model_type == QWEN2_5_VL:
        vision = {
            **TOWER,
            "window_size": 56,
            "fullatt_block_indexes": [1, 3],
            "patch_size": 14,
            "spatial_merge_size": 2,
        }
        rope = {"mrope_section": [2, 3, 3]}
    else:
        vision = {**TOWER, "patch_size": 16, "spatial_merge_size": 2, "num_position_embeddings": 64}
        rope = {"mrope_section": [2, 1, 1], "mrope_interleaved": True}
        text = {"head_dim": 24, **text}
    if model_type in (QWEN3_VL, QWEN3_VL_MOE):
        vision["deepstack_visual_indexes"] = [0, 2]
        rope["mrope_section"] = [4, 4, 4]
    text = {**TEXT, **text}
    if model_type in (QWEN3_VL_MOE, QWEN3_5_MOE):
        text |= EXPERTS
    if model_type in (QWEN3_5, QWEN3_5_MOE):
        text |= DELTA
    if model_type == QWEN3_5_MOE:
        text["shared_expert_intermediate_size"] = 40
    text["rope_parameters"] = {"rope_type": "default", "rope_theta": 10000.0, **rope}
    text |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None}
    ids = {
        "image_token_id": 10,
        "video_token_id": 11,
        "vision_start_token_id": 12,
        "vision_end_token_id": 13,
    }
    return {"model_type": model_type, "tie_word_embeddings": tied, "text_config": text, "vision_config": vision, **ids}


def flat(config: dict[str, Any]) -> dict[str, Any]:
    """Moves the decoder's keys to the top, as published files of Qwen2.5-VL have them."""
    rest = {key: value for key, value in config.items() if key != "text_config"}
    return {**config["text_config"], **rest}


TINY = {model_type: tiny(model_type) for model_type in MODEL_TYPES}
