"""Rows and clips whose tokens, pixels and frames are compared with InternVL's makers' processor: those of Qwen, none too long."""

import numpy as np

from tests.qwen_cases import CASES as ALL

CASES = tuple(case for case in ALL if case.num_frames <= 60)


def draw_lengths(num: int = 120) -> list[tuple[int, int]]:
    """(frames of a clip, segments): lengths that cut a clip in the middle between two frames among them."""
    rng = np.random.default_rng(11)
    known = [(1, 1), (2, 1), (8, 8), (9, 8), (17, 8), (100, 8), (750, 8), (751, 32), (5394, 64), (54000, 100)]
    drawn = []
    for _ in range(num - len(known)):
        total = int(2 ** rng.uniform(0, 14))
        drawn.append((total, int(rng.integers(1, min(total, 64) + 1))))
    return known + drawn
