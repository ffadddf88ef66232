"""Rows and sizes that are compared with GLM's makers' processor: those of Qwen, none too long, in pairs of frames."""

from typing import Any

import numpy as np

from tests.qwen_cases import CASES as ALL
from tests.qwen_cases import IMAGE_CASES as ALL_IMAGES
from tests.qwen_cases import Case

FACTOR = 28
"""Side of a token in pixels."""

CASES = tuple(case for case in ALL if case.num_frames <= 60)


IMAGE_CASES = (*ALL_IMAGES, Case("image, large", 1, 1500, 3600, is_image=True))
"""Rows that show a picture; the last one is scaled down."""

IMAGE_BUDGET = {"shortest_edge": 112 * 112, "longest_edge": 28 * 28 * 2 * 6144}
"""Source: `size` of the makers' preprocessor_config.json."""

IMAGE_MODEL_CASES = ("image, small", "image, history, system", "image, open")


def max_clip_tokens(case: Case) -> int:
    """A budget for the whole clip that scales some frames down."""
    return max(8, case.max_tokens * -(-case.num_frames // 2))


def paired(frames: Any) -> Any:
    """Frames or their numbers, the last one repeated where they are odd, as the makers' sampling does."""
    if len(frames) % 2 == 0:
        return frames
    return np.concatenate([frames, frames[-1:]]) if isinstance(frames, np.ndarray) else [*frames, frames[-1]]


def draw_sizes(num: int = 200) -> list[tuple[int, int, int, int]]:
    """(frames, height, width, most tokens), some of them extreme."""
    rng = np.random.default_rng(13)
    return [
        (
            2 * int(rng.integers(1, 60)),
            *(int(2 ** rng.uniform(3, 11)) for _ in range(2)),
            int(2 ** rng.uniform(3, 14)),
        )
        for _ in range(num)
    ]
