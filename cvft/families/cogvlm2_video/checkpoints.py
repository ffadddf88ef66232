"""The checkpoints that cvft knows by name: the four published ones, and the tiny one in the package. No torch, no network.

name of a folder or hub repository -> `Checkpoint`: what it is for, how it is asked, how large it is, whose licence it has
"""

from __future__ import annotations

from typing import Any

from cvft.families.cogvlm2_video.tensors import PUBLISHED_SIZES
from cvft.weights.checkpoints import Checkpoint

HUGGING_FACE_OWNER = "zai-org"
"""Owner of the repositories on Hugging Face."""

FORMER_OWNER = "THUDM"
"""Owner of the repositories on Hugging Face before, which still leads there."""

MODELSCOPE_OWNER = "ZhipuAI"
"""Owner of the repositories on ModelScope."""

PUBLISHED_LICENCE = "CogVLM licence and Llama 3 licence"

PUBLISHED_BYTES = 25_025_703_042
"""All files of the caption checkpoint. Source: the repository's listing; the others' weights have the same sizes."""

OFFICIAL_ARCHITECTURE = "CogVLMVideoForCausalLM"
"""`architectures` entry of the four published checkpoints. Source: their config.json."""

PUBLISHED_CONFIG: dict[str, Any] = {
    **PUBLISHED_SIZES,
    "architectures": [OFFICIAL_ARCHITECTURE],
    "bos_token_id": 128000,
    "eos_token_id": 128001,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "pad_token_id": 128002,
    "rms_norm_eps": 1e-05,
    "template_version": "base",
    "torch_dtype": "bfloat16",
    "vision_config": {
        **PUBLISHED_SIZES["vision_config"],
        "dropout_prob": 0.0,
        "hidden_act": "gelu",
        "image_size": 224,
        "layer_norm_eps": 1e-06,
    },
}
"""What decides a plan. Source: config.json of the caption checkpoint; the others' weights have the same sizes."""

PUBLISHED = tuple(
    Checkpoint(
        name,
        purpose,
        template,
        PUBLISHED_BYTES,
        PUBLISHED_LICENCE,
        owner=HUGGING_FACE_OWNER,
        modelscope_owner=MODELSCOPE_OWNER,
        former_owners=(FORMER_OWNER,),
        config=PUBLISHED_CONFIG,
    )
    for name, purpose, template in (
        ("cogvlm2-video-llama3-chat", "questions about a video, and moments in it", "chat"),
        ("cogvlm2-video-llama3-base", "pre-training only, a start for a model of your own", "base"),
        ("cogvlm2-llama3-caption", "long captions", "chat"),
        ("VisionReward-Video", "yes or no to a list of questions about quality", "chat"),
    )
)
"""The published checkpoints. Source: their model cards. Every published config.json says template `base`, so the name has to
tell, by the published demo's rule: `base` for the base checkpoint and `chat` for all others, which for VisionReward-Video is an
assumption."""

TINY = Checkpoint("tiny", "tests and demos, on a laptop; in the package", "chat", 6_600_000, "Apache-2.0, as cvft")
