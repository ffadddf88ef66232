"""What tells the generations of Qwen's video models apart, as values. No torch."""

from __future__ import annotations

from dataclasses import dataclass

from cvft.families.parts import Parts
from cvft.families.qwen_vl.layout import STYLES, Style
from cvft.families.qwen_vl.parts import PARTS
from cvft.families.qwen_vl.sizes import QWEN2_5_VL, QWEN3_5, QWEN3_5_MOE, QWEN3_VL, QWEN3_VL_MOE

FPS = 2.0
MIN_FRAMES, MAX_FRAMES = 4, 768
MIN_FRAME_TOKENS, MAX_FRAME_TOKENS = 128, 768
MAX_CLIP_TOKENS = 115_200
"""How the makers train and serve: two frames a second, at least 4 and at most 768; 128 to 768 tokens for two frames, and for a
clip nine tenths of 128,000. Source: qwen-vl-utils 0.0.14, `vision_process.py`."""


@dataclass(frozen=True)
class Generation:
    """One generation of the models.

    Args:
        name: Its name in plans and messages, which is also `model_type` of config.json.
        title: Its name in sentences.
        architecture: `architectures` entry of config.json.
        style: How rows are written.
        parts: Where the parts of the loaded model lie.
        look: Which entry of the tables of styles and norms is its own.
    """

    name: str
    title: str
    architecture: str
    style: Style
    parts: Parts
    look: str


def _generation(name: str, title: str, architecture: str, look: str) -> Generation:
    return Generation(name, title, architecture, STYLES[look], PARTS[name], look)


GENERATIONS = (
    _generation(QWEN3_VL, "Qwen3-VL", "Qwen3VLForConditionalGeneration", QWEN3_VL),
    _generation(QWEN3_VL_MOE, "Qwen3-VL-MoE", "Qwen3VLMoeForConditionalGeneration", QWEN3_VL),
    _generation(QWEN2_5_VL, "Qwen2.5-VL", "Qwen2_5_VLForConditionalGeneration", QWEN2_5_VL),
    _generation(QWEN3_5, "Qwen3.5", "Qwen3_5ForConditionalGeneration", QWEN3_5),
    _generation(QWEN3_5_MOE, "Qwen3.5-MoE", "Qwen3_5MoeForConditionalGeneration", QWEN3_5),
)
"""Source of the architectures: config.json of the published checkpoints."""
