"""Rows whose tokens, positions and pixels are compared with the makers' processors. No torch.

`make_qwen_goldens.py` computes what the makers' code says to them; the tests compute it anew from the same numbers.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Case:
    """One row with its first clip; sizes in pixels, bounds in tokens of a temporal grid. No frames: a row without a clip."""

    name: str
    num_frames: int = 0
    height: int = 48
    width: int = 64
    num_frames_total: int = 0
    avg_fps: float = 25.0
    min_tokens: int = 1
    max_tokens: int = 6
    query: str = "What happens here?"
    response: str | None = "The red circle moves left."
    history: tuple[tuple[str, str], ...] = ()
    system: str | None = None
    is_image: bool = False
    beside: tuple["Case", ...] = ()

    @property
    def clips(self) -> tuple["Case", ...]:
        """What its row shows, in order: itself, and what stands behind; of those, sizes and frames alone count."""
        return (self, *self.beside) if self.num_frames else ()

    @property
    def frame_indices(self) -> list[int]:
        """Evenly from the first frame to the last, as ms-swift and qwen_vl_utils choose them."""
        return np.linspace(0, self.num_frames_total - 1, self.num_frames).round().astype(int).tolist()

    def draw_frames(self) -> np.ndarray:
        """(T, H, W, 3) uint8: noise, which shows every rounding, over a slope."""
        rng = np.random.default_rng([self.num_frames, self.height, self.width])
        shape = (self.num_frames, self.height, self.width, 3)
        slope = np.linspace(0, 127, self.width).astype(np.uint8)[None, None, :, None]
        return rng.integers(0, 128, shape, dtype=np.uint8) + slope


HISTORY = (("How many dogs?", "Two."), ("Where?", "At the door, left of the bird."))

CASES = (
    *(
        Case(f"{number} frames", number, num_frames_total=25 * number)
        for number in (1, 2, 3, 4, 5, 6, 7, 8, 15, 16, 31, 60)
    ),
    Case("odd size", 6, 97, 131, 40, max_tokens=16),
    Case("odd size, grown", 5, 33, 47, 40, min_tokens=24, max_tokens=60),
    Case("wide", 4, 33, 500, 40, min_tokens=4, max_tokens=30),
    Case("portrait", 6, 160, 90, 90, 29.97, max_tokens=20),
    Case("already whole tokens of 28", 4, 56, 84, 12, max_tokens=20),
    Case("already whole tokens of 32", 4, 64, 96, 12, max_tokens=20),
    Case("smaller than a token", 4, 16, 20, 12),
    Case("0.3 seconds", 4, num_frames_total=9, avg_fps=30.0),
    Case("4 frames a second", 16, num_frames_total=100, avg_fps=25.0),
    Case("60 seconds", 120, num_frames_total=1500),
    Case("10 minutes", 768, 40, 56, 17982, 29.97, max_tokens=2),
    Case("history", 4, num_frames_total=50, history=HISTORY),
    Case("history, open", 4, num_frames_total=50, history=HISTORY, response=None),
    Case("open", 4, num_frames_total=50, response=None),
    Case("own system", 4, num_frames_total=50, system="Answer with one word."),
    Case("empty system", 4, num_frames_total=50, system=""),
    Case("Chinese", 4, num_frames_total=50, query="视频里有什么？第3秒呢?", response="一个红色的圆。"),
    Case("accents", 2, num_frames_total=50, query="Où est le chien ? cafe\u0301", response="À gauche — là."),
    Case("numbers", 4, num_frames_total=50, query="At 12.5 seconds?", response="<0.3 seconds> 1234567"),
    Case("white space", 4, num_frames_total=50, query="  \n What?\n\n", response="Red.  "),
    Case("empty query", 4, num_frames_total=50, query="", response="Red."),
    Case("text alone"),
    Case("text alone, open", response=None),
    Case("text alone, history", history=HISTORY, system="Be brief."),
    Case("text alone, white space", query="\n\n  What is it?  \n", response="A bird. \n", system="  Be brief. "),
)

IMAGE_CASES = tuple(
    Case(f"image, {name}", 1, *size, is_image=True, **what)
    for name, size, what in [
        ("small", (48, 64), {}),
        ("odd size", (97, 131), {"max_tokens": 16}),
        ("grown", (33, 47), {"min_tokens": 24, "max_tokens": 60}),
        ("wide", (33, 500), {"min_tokens": 4, "max_tokens": 30}),
        ("portrait", (160, 90), {"max_tokens": 20}),
        ("smaller than a token", (16, 20), {}),
        ("history, system", (48, 64), {"history": HISTORY, "system": "Be brief."}),
        ("open", (64, 96), {"response": None, "max_tokens": 20}),
        ("white space", (48, 64), {"query": "  \n What?\n\n", "response": "Red.  "}),
    ]
)
"""Rows that show a picture, which is no clip of one frame."""

_TALL = Case("", 6, 160, 90, 90, 29.97, max_tokens=20)
_WIDE = Case("", 4, 33, 500, 40, min_tokens=4, max_tokens=30)

SEVERAL_CASES = (
    Case("two clips", 4, num_frames_total=50, beside=(_TALL,)),
    Case(
        "two clips the other way", *(6, 160, 90, 90, 29.97), max_tokens=20, beside=(Case("", 4, num_frames_total=50),)
    ),
    Case("three clips, history", 3, num_frames_total=75, beside=(_WIDE, _TALL), history=HISTORY, system="Be brief."),
    Case(
        "a clip twice, open",
        5,
        97,
        131,
        40,
        max_tokens=16,
        beside=(Case("", 5, 97, 131, 40, max_tokens=16),),
        response=None,
    ),
    Case("two clips, white space", 4, num_frames_total=50, beside=(_WIDE,), query="  \n What?\n\n", response="Red.  "),
    Case("two pictures", 1, is_image=True, beside=(Case("", 1, 97, 131, is_image=True),)),
)
"""Rows that show several clips, or several pictures, of different sizes."""

SEVERAL_MODEL_CASES = ("two clips", "two pictures")
"""Those of them that models see."""

MODEL_CASES = ("1 frames", "5 frames", "portrait", "4 frames a second", "history", "Chinese", "text alone")
"""Rows that models see."""

IMAGE_MODEL_CASES = ("image, odd size", "image, history, system", "image, open")
"""The same of rows with a picture."""

NUM_NEW_TOKENS = 8
SHOWN_IDS = tuple(range(0, 600, 40))
"""Vocabulary entries whose logits are kept at every position; at a row's last one, all are."""


def draw_sizes(num: int = 300) -> list[tuple[int, int, int, int, int]]:
    """(height, width, factor, min_tokens, max_tokens), some of them extreme."""
    rng = np.random.default_rng(7)
    sizes = []
    for _ in range(num):
        height, width = (int(2 ** rng.uniform(3, 11)) for _ in range(2))
        low = int(2 ** rng.uniform(0, 8))
        sizes.append((height, width, int(rng.choice([28, 32])), low, low + int(2 ** rng.uniform(0, 10))))
    return sizes
