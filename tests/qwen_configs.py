"""config.json of the published checkpoints, as far as it decides shapes, and tiny ones of the same forms.

Source: the published config.json files, whose values public code repeats that was written from them: tests (2.5-VL 3B),
DiffSynth's text encoders (2.5-VL 7B, 3-VL 4B) and others; `tests/test_qwen_tensors.py` compares their numbers of parameters with
those that Hugging Face shows for the published files.
"""

from __future__ import annotations

from typing import Any

from cvft.families.qwen_vl.sizes import MODEL_TYPES, QWEN2_5_VL, QWEN3_5, QWEN3_5_MOE, QWEN3_VL, QWEN3_VL_MOE


def qwen2_5_vl(*, width, inner, layers, heads, kv_heads, tower_inner, vocabulary=152064, tied=False) -> dict[str, Any]:
    """The flat form of the published files."""
    return {
        "model_type": QWEN2_5_VL,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocabulary,
        "tie_word_embeddings": tied,
        "vision_config": {
            "depth": 32,
            "hidden_size": 1280,
            "intermediate_size": tower_inner,
            "num_heads": 16,
            "in_chans": 3,
            "out_hidden_size": width,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "spatial_patch_size": 14,
            "temporal_patch_size": 2,
            "window_size": 112,
            "fullatt_block_indexes": [7, 15, 23, 31],
            "tokens_per_second": 2,
        },
    }


SMALL_TOWER = {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "deepstack_visual_indexes": [5, 11, 17]}
LARGE_TOWER = {"depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "deepstack_visual_indexes": [8, 16, 24]}


def tower_of(width: int, **sizes: Any) -> dict[str, Any]:
    shared = {"in_channels": 3, "patch_size": 16, "spatial_merge_size": 2, "temporal_patch_size": 2}
    return {**shared, "num_heads": 16, "num_position_embeddings": 2304, "out_hidden_size": width, **sizes}


def qwen3_vl(*, width, inner, layers, heads, kv_heads=8, tower=None, tied=False, **experts) -> dict[str, Any]:
    model_type = QWEN3_VL_MOE if experts else QWEN3_VL
    return {
        "model_type": model_type,
        "tie_word_embeddings": tied,
        "text_config": {
            "attention_bias": False,
            "head_dim": 128,
            "hidden_size": width,
            "intermediate_size": inner,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "vocab_size": 151936,
            **experts,
        },
        "vision_config": tower_of(width, **(tower or LARGE_TOWER)),
    }


def qwen3_5(*, width, inner, layers, heads, kv_heads, value_heads, tower=None, tied=False) -> dict[str, Any]:
    return {
        "model_type": QWEN3_5,
        "tie_word_embeddings": tied,
        "text_config": {
            "attention_bias": False,
            "full_attention_interval": 4,
            "head_dim": 256,
            "hidden_size": width,
            "intermediate_size": inner,
            "linear_conv_kernel_dim": 4,
            "linear_key_head_dim": 128,
            "linear_num_key_heads": 16,
            "linear_num_value_heads": value_heads,
            "linear_value_head_dim": 128,
            "mtp_num_hidden_layers": 1,
            "num_attention_heads": heads,
            "num_hidden_layers": layers,
            "num_key_value_heads": kv_heads,
            "vocab_size": 248320,
        },
        "vision_config": {**tower_of(width, **(tower or LARGE_TOWER)), "deepstack_visual_indexes": []},
    }


PUBLISHED = {
    "Qwen2.5-VL-3B": qwen2_5_vl(
        width=2048, inner=11008, layers=36, heads=16, kv_heads=2, tower_inner=3420, vocabulary=151936, tied=True
    ),
    "Qwen2.5-VL-7B": qwen2_5_vl(width=3584, inner=18944, layers=28, heads=28, kv_heads=4, tower_inner=3420),
    "Qwen2.5-VL-32B": qwen2_5_vl(width=5120, inner=27648, layers=64, heads=40, kv_heads=8, tower_inner=3456),
    "Qwen2.5-VL-72B": qwen2_5_vl(width=8192, inner=29568, layers=80, heads=64, kv_heads=8, tower_inner=3456),
    "Qwen3-VL-2B": qwen3_vl(width=2048, inner=6144, layers=28, heads=16, tower=SMALL_TOWER, tied=True),
    "Qwen3-VL-4B": qwen3_vl(width=2560, inner=9728, layers=36, heads=32, tower=SMALL_TOWER, tied=True),
    "Qwen3-VL-8B": qwen3_vl(width=4096, inner=12288, layers=36, heads=32),
    "Qwen3-VL-32B": qwen3_vl(width=5120, inner=25600, layers=64, heads=64),
    "Qwen3-VL-30B-A3B": qwen3_vl(
        width=2048,
        inner=6144,
        layers=48,
        heads=32,
        kv_heads=4,
        num_experts=128,
        num_experts_per_tok=8,
        moe_intermediate_size=768,
        decoder_sparse_step=1,
        mlp_only_layers=[],
    ),
    "Qwen3.5-0.8B": qwen3_5(
        width=1024,
        inner=3584,
        layers=24,
        heads=8,
        kv_heads=2,
        value_heads=16,
        tied=True,
        tower={"depth": 12, "hidden_size": 768, "intermediate_size": 3072, "num_heads": 12},
    ),
    "Qwen3.5-9B": qwen3_5(width=4096, inner=12288, layers=32, heads=16, kv_heads=4, value_heads=32),
    "Qwen3.5-27B": qwen3_5(width=5120, inner=17408, layers=64, heads=24, kv_heads=4, value_heads=48),
}

NUM_PARAMETERS = {
    "Qwen2.5-VL-3B": 3_754_622_976,
    "Qwen2.5-VL-7B": 8_292_166_656,
    "Qwen2.5-VL-32B": 33_452_718_336,
    "Qwen3-VL-2B": 2_127_532_032,
    "Qwen3-VL-4B": 4_437_815_808,
    "Qwen3-VL-8B": 8_767_123_696,
    "Qwen3-VL-32B": 33_357_390_064,
    "Qwen3-VL-30B-A3B": 31_070_754_032,
    "Qwen3.5-0.8B": 873_438_784,
    "Qwen3.5-9B": 9_653_104_368,
    "Qwen3.5-27B": 27_781_427_952,
}
"""Numbers of the published files' values. Source: `safetensors` on the checkpoints' pages on Hugging Face; those of Qwen3.5 hold
one layer that predicts further tokens, which the model leaves out."""

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
        vision = {**tower_of(64, **TOWER), "num_position_embeddings": 64}
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
