"""The published checkpoints that cvft knows by name, with what their config.json says. No torch, no network.

Source of the values: the published config.json files as public code repeats them; the numbers of parameters that follow are those
that Hugging Face shows for the published files (`tests/test_qwen_tensors.py`). Source of the licences: the model cards.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cvft.families.qwen_vl.sizes import QWEN2_5_VL, QWEN3_5, QWEN3_5_MOE, QWEN3_VL, QWEN3_VL_MOE
from cvft.weights.checkpoints import Checkpoint

OWNER = "Qwen"
"""Owner of the repositories on Hugging Face and on ModelScope."""

TEMPLATE = "chat"
"""All of them are asked through the chat template of their tokenizer."""

BF16_BYTES = 2

APACHE = "Apache-2.0"
RESEARCH = "Qwen Research licence: no commercial use"
QWEN = "Qwen licence"

ARCHITECTURES = {
    QWEN2_5_VL: "Qwen2_5_VLForConditionalGeneration",
    QWEN3_VL: "Qwen3VLForConditionalGeneration",
    QWEN3_VL_MOE: "Qwen3VLMoeForConditionalGeneration",
    QWEN3_5: "Qwen3_5ForConditionalGeneration",
}
"""`architectures` entries of config.json by `model_type`."""

SMALL_TOWER = {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "num_heads": 16}
LARGE_TOWER = {"depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "num_heads": 16}
SMALLEST_TOWER = {"depth": 12, "hidden_size": 768, "intermediate_size": 3072, "num_heads": 12}
"""Sizes of the towers of Qwen3-VL and Qwen3.5."""


def _config_2_5(
    *, width: int, inner: int, layers: int, heads: int, kv_heads: int, tower_inner: int, tied: bool = False
) -> dict[str, Any]:
    """Writes config.json as Qwen2.5-VL's are, with the decoder's keys at the top."""
    return {
        "architectures": [ARCHITECTURES[QWEN2_5_VL]],
        "attention_dropout": 0.0,
        "bos_token_id": 151643,
        "eos_token_id": 151645,
        "hidden_act": "silu",
        "hidden_size": width,
        "image_token_id": 151655,
        "intermediate_size": inner,
        "max_position_embeddings": 128000,
        "model_type": QWEN2_5_VL,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "num_key_value_heads": kv_heads,
        "rms_norm_eps": 1e-06,
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
        "rope_theta": 1000000.0,
        "tie_word_embeddings": tied,
        "torch_dtype": "bfloat16",
        "use_sliding_window": False,
        "video_token_id": 151656,
        "vision_config": {
            "depth": 32,
            "fullatt_block_indexes": [7, 15, 23, 31],
            "hidden_act": "silu",
            "hidden_size": 1280,
            "in_chans": 3,
            "intermediate_size": tower_inner,
            "num_heads": 16,
            "out_hidden_size": width,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "spatial_patch_size": 14,
            "temporal_patch_size": 2,
            "tokens_per_second": 2,
            "window_size": 112,
        },
        "vision_end_token_id": 151653,
        "vision_start_token_id": 151652,
        "vision_token_id": 151654,
        "vocab_size": 151936 if tied else 152064,
    }


def _config_3(
    *,
    width: int,
    inner: int,
    layers: int,
    heads: int,
    kv_heads: int = 8,
    tower: Mapping[str, int] = LARGE_TOWER,
    tied: bool = False,
    experts: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Writes config.json as Qwen3-VL's are."""
    model_type = QWEN3_VL_MOE if experts else QWEN3_VL
    levels = [5, 11, 17] if tower is SMALL_TOWER else [8, 16, 24]
    return {
        "architectures": [ARCHITECTURES[model_type]],
        "image_token_id": 151655,
        "model_type": model_type,
        "text_config": {
            "attention_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": 151643,
            "dtype": "bfloat16",
            "eos_token_id": 151645,
            "head_dim": 128,
            "hidden_act": "silu",
            "hidden_size": width,
            "intermediate_size": inner,
            "max_position_embeddings": 262144,
            "model_type": f"{model_type}_text",
            "num_attention_heads": heads,
            "num_hidden_layers": layers,
            "num_key_value_heads": kv_heads,
            "rms_norm_eps": 1e-06,
            "rope_scaling": {"mrope_interleaved": True, "mrope_section": [24, 20, 20], "rope_type": "default"},
            "rope_theta": 5000000,
            "vocab_size": 151936,
            **(experts or {}),
        },
        "tie_word_embeddings": tied,
        "video_token_id": 151656,
        "vision_config": {**_tower(width, tower, model_type), "deepstack_visual_indexes": levels},
        "vision_end_token_id": 151653,
        "vision_start_token_id": 151652,
    }


def _config_3_5(
    *,
    width: int,
    inner: int,
    layers: int,
    heads: int,
    kv_heads: int,
    value_heads: int,
    tower: Mapping[str, int] = LARGE_TOWER,
    tied: bool = False,
) -> dict[str, Any]:
    """Writes config.json as Qwen3.5's are; 3.6 and 3.8 have the same form."""
    return {
        "architectures": [ARCHITECTURES[QWEN3_5]],
        "image_token_id": 248056,
        "model_type": QWEN3_5,
        "text_config": {
            "attention_bias": False,
            "attention_dropout": 0.0,
            "attn_output_gate": True,
            "dtype": "bfloat16",
            "eos_token_id": 248044,
            "full_attention_interval": 4,
            "head_dim": 256,
            "hidden_act": "silu",
            "hidden_size": width,
            "intermediate_size": inner,
            "layer_types": ["linear_attention" if (number + 1) % 4 else "full_attention" for number in range(layers)],
            "linear_conv_kernel_dim": 4,
            "linear_key_head_dim": 128,
            "linear_num_key_heads": 16,
            "linear_num_value_heads": value_heads,
            "linear_value_head_dim": 128,
            "max_position_embeddings": 262144,
            "model_type": f"{QWEN3_5}_text",
            "mtp_num_hidden_layers": 1,
            "num_attention_heads": heads,
            "num_hidden_layers": layers,
            "num_key_value_heads": kv_heads,
            "rms_norm_eps": 1e-06,
            "rope_parameters": {
                "mrope_interleaved": True,
                "mrope_section": [11, 11, 10],
                "partial_rotary_factor": 0.25,
                "rope_theta": 10000000,
                "rope_type": "default",
            },
            "tie_word_embeddings": tied,
            "vocab_size": 248320,
        },
        "tie_word_embeddings": tied,
        "video_token_id": 248057,
        "vision_config": {**_tower(width, tower, QWEN3_5), "deepstack_visual_indexes": []},
        "vision_end_token_id": 248054,
        "vision_start_token_id": 248053,
    }


def _tower(width: int, sizes: Mapping[str, int], model_type: str) -> dict[str, Any]:
    return {
        **sizes,
        "hidden_act": "gelu_pytorch_tanh",
        "in_channels": 3,
        "model_type": model_type,
        "num_position_embeddings": 2304,
        "out_hidden_size": width,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    }


def _published(name: str, num_values: int, purpose: str, config: dict[str, Any], licence: str = APACHE) -> Checkpoint:
    """Makes a checkpoint of the number of values in its weight files, each of which has two bytes."""
    size = num_values * BF16_BYTES
    return Checkpoint(name, purpose, TEMPLATE, size, licence, owner=OWNER, modelscope_owner=OWNER, config=config)


QUESTIONS = "questions about videos and images"
REASONING = "questions about videos and images, after reasoning in text"
HYBRID = "questions about videos and images; three of four blocks recurrent"

_EXPERTS = {
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "moe_intermediate_size": 768,
    "norm_topk_prob": True,
    "num_experts": 128,
    "num_experts_per_tok": 8,
}
_SIZES_3 = (
    ("2B", 2_127_532_032, _config_3(width=2048, inner=6144, layers=28, heads=16, tower=SMALL_TOWER, tied=True)),
    ("4B", 4_437_815_808, _config_3(width=2560, inner=9728, layers=36, heads=32, tower=SMALL_TOWER, tied=True)),
    ("8B", 8_767_123_696, _config_3(width=4096, inner=12288, layers=36, heads=32)),
    ("32B", 33_357_390_064, _config_3(width=5120, inner=25600, layers=64, heads=64)),
)
_3_5_27B = _config_3_5(width=5120, inner=17408, layers=64, heads=24, kv_heads=4, value_heads=48)

PUBLISHED_2_5 = (
    _published(
        "Qwen2.5-VL-3B-Instruct",
        3_754_622_976,
        QUESTIONS,
        _config_2_5(width=2048, inner=11008, layers=36, heads=16, kv_heads=2, tower_inner=3420, tied=True),
        RESEARCH,
    ),
    _published(
        "Qwen2.5-VL-7B-Instruct",
        8_292_166_656,
        QUESTIONS,
        _config_2_5(width=3584, inner=18944, layers=28, heads=28, kv_heads=4, tower_inner=3420),
    ),
    _published(
        "Qwen2.5-VL-32B-Instruct",
        33_452_718_336,
        QUESTIONS,
        _config_2_5(width=5120, inner=27648, layers=64, heads=40, kv_heads=8, tower_inner=3456),
    ),
    _published(
        "Qwen2.5-VL-72B-Instruct",
        73_410_777_344,
        QUESTIONS,
        _config_2_5(width=8192, inner=29568, layers=80, heads=64, kv_heads=8, tower_inner=3456),
        QWEN,
    ),
)
"""Checkpoints of Qwen2.5-VL. The bytes of the 72B follow from its sizes alone: transformers' defaults for the decoder, the
technical report's for the tower."""

PUBLISHED_3 = tuple(
    _published(f"Qwen3-VL-{size}-{kind}", num_values, purpose, config)
    for size, num_values, config in _SIZES_3
    for kind, purpose in (("Instruct", QUESTIONS), ("Thinking", REASONING))
)
"""Checkpoints of Qwen3-VL."""

PUBLISHED_3_MOE = tuple(
    _published(
        f"Qwen3-VL-30B-A3B-{kind}",
        31_070_754_032,
        purpose,
        _config_3(width=2048, inner=6144, layers=48, heads=32, kv_heads=4, experts=_EXPERTS),
    )
    for kind, purpose in (("Instruct", QUESTIONS), ("Thinking", REASONING))
)
"""Checkpoints of Qwen3-VL with experts."""

PUBLISHED_3_5 = (
    _published(
        "Qwen3.5-0.8B",
        873_438_784,
        HYBRID,
        _config_3_5(
            width=1024, inner=3584, layers=24, heads=8, kv_heads=2, value_heads=16, tower=SMALLEST_TOWER, tied=True
        ),
    ),
    _published(
        "Qwen3.5-2B",
        2_274_069_824,
        HYBRID,
        _config_3_5(
            width=2048, inner=6144, layers=24, heads=8, kv_heads=2, value_heads=16, tower=SMALL_TOWER, tied=True
        ),
    ),
    _published(
        "Qwen3.5-4B",
        4_659_865_088,
        HYBRID,
        _config_3_5(
            width=2560, inner=9216, layers=32, heads=16, kv_heads=4, value_heads=32, tower=SMALL_TOWER, tied=True
        ),
    ),
    _published(
        "Qwen3.5-9B",
        9_653_104_368,
        HYBRID,
        _config_3_5(width=4096, inner=12288, layers=32, heads=16, kv_heads=4, value_heads=32),
    ),
    *(_published(f"Qwen{version}-27B", 27_781_427_952, HYBRID, _3_5_27B) for version in ("3.5", "3.6", "3.8")),
)
"""Checkpoints of Qwen3.5 and of its successors of the same form; their files hold one layer that the model leaves out."""

PUBLISHED: dict[str, tuple[Checkpoint, ...]] = {
    QWEN2_5_VL: PUBLISHED_2_5,
    QWEN3_VL: PUBLISHED_3,
    QWEN3_VL_MOE: PUBLISHED_3_MOE,
    QWEN3_5: PUBLISHED_3_5,
    QWEN3_5_MOE: (),
}
"""Checkpoints by `model_type`."""

TINY = Checkpoint(
    "tiny-qwen3-vl", "tests and demos, on a laptop; in the package", TEMPLATE, 6_800_000, "Apache-2.0, as cvft"
)
"""The one that ships in the package: of Qwen3-VL's form."""
