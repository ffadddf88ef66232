"""The published checkpoints that cvft knows by name, with what their config.json says. No torch, no network.

Source of the sizes: the defaults of transformers' configuration, which names this checkpoint. Source of the licence and of the
context of 64k tokens: the model card.
"""

from __future__ import annotations

import math
from typing import Any

from cvft.families.glm4v.sizes import Sizes
from cvft.families.glm4v.tensors import tensor_shapes
from cvft.weights.checkpoints import Checkpoint

CONFIG: dict[str, Any] = {
    "architectures": ["Glm4vForConditionalGeneration"],
    "image_end_token_id": 151340,
    "image_start_token_id": 151339,
    "image_token_id": 151343,
    "model_type": "glm4v",
    "text_config": {
        "hidden_act": "silu",
        "hidden_size": 4096,
        "intermediate_size": 13696,
        "max_position_embeddings": 65536,
        "num_attention_heads": 32,
        "num_hidden_layers": 40,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-05,
        "vocab_size": 151552,
    },
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "video_end_token_id": 151342,
    "video_start_token_id": 151341,
    "video_token_id": 151344,
    "vision_config": {
        "depth": 24,
        "hidden_size": 1536,
        "image_size": 336,
        "in_channels": 3,
        "intermediate_size": 13696,
        "num_heads": 12,
        "out_hidden_size": 4096,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    },
}

BF16_BYTES = 2

PUBLISHED = tuple(
    Checkpoint(
        f"GLM-4.1V-9B-{kind}",
        purpose,
        "chat",
        BF16_BYTES * sum(math.prod(shape) for shape in tensor_shapes(Sizes.from_config(CONFIG)).values()),
        "MIT",
        owner="zai-org",
        modelscope_owner="ZhipuAI",
        former_owners=("THUDM",),
        config=CONFIG,
    )
    for kind, purpose in (
        ("Thinking", "questions about videos and images, after reasoning in text"),
        ("Base", "pre-training only, a start for a model of your own"),
    )
)
"""Checkpoints of GLM-4.1V; bytes of their tensors, two each."""
