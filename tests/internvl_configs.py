"""config.json of InternVL's published checkpoints, as far as it decides shapes.

Source: the towers are those that the makers' tool writes which turns their checkpoints into this form; the decoders are the
published Qwen2.5 and Qwen3 models of the same size, whose embeddings the makers keep apart.
"""

from typing import Any

SMALL_TOWER = {
    **{"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 24},
    **{"attention_bias": True, "use_qk_norm": False, "norm_type": "layer_norm"},
}
LARGE_TOWER = {
    **{"hidden_size": 3200, "intermediate_size": 12800, "num_attention_heads": 25, "num_hidden_layers": 45},
    **{"attention_bias": False, "use_qk_norm": True, "norm_type": "rms_norm"},
}


def internvl(decoder: str, *, width, inner, layers, heads, kv_heads=8, vocabulary, tower=None) -> dict[str, Any]:
    text = {
        "model_type": decoder,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocabulary,
        "tie_word_embeddings": False,
        "max_position_embeddings": 40960,
    }
    return {
        "architectures": ["InternVLForConditionalGeneration"],
        "model_type": "internvl",
        "downsample_ratio": 0.5,
        "image_seq_length": 256,
        "text_config": text if decoder == "qwen2" else {**text, "head_dim": 128},
        "vision_config": {**(tower or SMALL_TOWER), "image_size": [448, 448], "patch_size": [14, 14]},
    }


PUBLISHED = {
    "InternVL3-8B": internvl("qwen2", width=3584, inner=18944, layers=28, heads=28, kv_heads=4, vocabulary=151674),
    "InternVL3_5-8B": internvl("qwen3", width=4096, inner=12288, layers=36, heads=32, vocabulary=151936),
    "InternVL3_5-38B": internvl(
        "qwen3", width=5120, inner=25600, layers=64, heads=64, vocabulary=151936, tower=LARGE_TOWER
    ),
}

NUM_BILLIONS = {"InternVL3-8B": "7.94", "InternVL3_5-8B": "8.53", "InternVL3_5-38B": "38.4"}
"""Billions of parameters, as the checkpoints' pages show them."""
