"""The published checkpoints that cvft knows by name, with what their config.json says. No torch, no network.

Source of the towers: the makers' tool that turns their checkpoints into this form. Source of the decoders: Qwen3's published
config.json files. The numbers of parameters that follow are those of the makers' model cards, and so is the licence.
"""

from __future__ import annotations

import math
from typing import Any

from cvft.families.internvl.tensors import published_shapes
from cvft.weights.checkpoints import Checkpoint

OWNER = "OpenGVLab"
"""Owner of the repositories on Hugging Face and on ModelScope."""

BF16_BYTES = 2

SMALL_TOWER: dict[str, Any] = {
    "attention_bias": True,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "norm_type": "layer_norm",
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "use_qk_norm": False,
}
LARGE_TOWER: dict[str, Any] = {
    "attention_bias": False,
    "hidden_size": 3200,
    "intermediate_size": 12800,
    "norm_type": "rms_norm",
    "num_attention_heads": 25,
    "num_hidden_layers": 45,
    "use_qk_norm": True,
}


def _config(*, width: int, inner: int, layers: int, heads: int, tower: dict[str, Any] | None = None) -> dict[str, Any]:
    """Writes config.json as those of InternVL3.5 are."""
    return {
        "architectures": ["InternVLForConditionalGeneration"],
        "downsample_ratio": 0.5,
        "image_seq_length": 256,
        "image_token_id": 151671,
        "model_type": "internvl",
        "projector_hidden_act": "gelu",
        "text_config": {
            "attention_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": 151643,
            "eos_token_id": 151645,
            "head_dim": 128,
            "hidden_act": "silu",
            "hidden_size": width,
            "intermediate_size": inner,
            "max_position_embeddings": 40960,
            "model_type": "qwen3",
            "num_attention_heads": heads,
            "num_hidden_layers": layers,
            "num_key_value_heads": 8,
            "rms_norm_eps": 1e-06,
            "rope_theta": 1000000,
            "tie_word_embeddings": False,
            "use_sliding_window": False,
            "vocab_size": 151936,
        },
        "torch_dtype": "bfloat16",
        "vision_config": {
            **(tower or SMALL_TOWER),
            "hidden_act": "gelu",
            "image_size": [448, 448],
            "model_type": "internvl_vision",
            "patch_size": [14, 14],
        },
    }


def _published(size: str, config: dict[str, Any]) -> Checkpoint:
    num_bytes = BF16_BYTES * sum(math.prod(shape) for shape in published_shapes(config).values())
    return Checkpoint(
        f"InternVL3_5-{size}-HF",
        "questions about videos and images",
        "chat",
        num_bytes,
        "Apache-2.0",
        owner=OWNER,
        modelscope_owner=OWNER,
        config=config,
    )


PUBLISHED = (
    _published("1B", _config(width=1024, inner=3072, layers=28, heads=16)),
    _published("2B", _config(width=2048, inner=6144, layers=28, heads=16)),
    _published("4B", _config(width=2560, inner=9728, layers=36, heads=32)),
    _published("8B", _config(width=4096, inner=12288, layers=36, heads=32)),
    _published("14B", _config(width=5120, inner=17408, layers=40, heads=40)),
    _published("38B", _config(width=5120, inner=25600, layers=64, heads=64, tower=LARGE_TOWER)),
)
"""Checkpoints of InternVL3.5 with dense decoders; bytes of their tensors, two each."""
