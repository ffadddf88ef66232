"""What the colour channels of frames are normalised with. No torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PixelNorm:
    """What colour channels are normalised with, as fractions of the largest value.

    Args:
        mean: Mean of each channel.
        std: Standard deviation of each channel.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


CLIP_NORM = PixelNorm((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
"""Source: OpenAI CLIP's preprocessing, which preprocessor_config.json of Qwen2.5-VL and of GLM-4.1V state."""
