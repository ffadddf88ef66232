"""What the colour channels of Qwen's models are normalised with. No torch."""

from __future__ import annotations

from cvft.families.norms import CLIP_NORM, PixelNorm

HALF_NORM = PixelNorm((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
"""Source: preprocessor_config.json of Qwen3-VL and Qwen3.5."""

NORMS = {"qwen2_5_vl": CLIP_NORM, "qwen3_vl": HALF_NORM, "qwen3_5": HALF_NORM}
"""By the generation's name."""
