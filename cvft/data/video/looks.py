"""What a clip looks like, small enough to compare it with every other: frames uint8 (T, H, W, 3) -> cells uint8 (T, 256).

Each picture is the mean brightness of 16 x 16 cells, whose edges may lie within pixels: another size or another encoding of the
same picture changes them little.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cvft.data.video.reader import Frames
from cvft.data.video.sample import Sampling

SIDE_CELLS = 16
"""Cells along each side of a picture."""

LOOKS_SAMPLING = (Sampling("uniform", 128), Sampling("uniform", 32))
"""Frames that are looked at, over the whole clip; fewer of a clip whose frames are too large for so many in memory."""

Cells = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class ClipLooks:
    """What a clip looks like.

    Args:
        timestamps_s: Start of each picture in seconds, shape `(T,)`.
        cells: Brightness of the cells of each, shape `(T, 256)`.
    """

    timestamps_s: npt.NDArray[np.float64]
    cells: Cells


def measure_cells(frames: Frames) -> Cells:
    """Returns the mean brightness of the cells of each picture.

    Args:
        frames: RGB, uint8, shape `(T, H, W, 3)`.
    """
    from PIL import Image

    size = (SIDE_CELLS, SIDE_CELLS)
    small = [Image.fromarray(frame).convert("L").resize(size, Image.Resampling.BOX) for frame in frames]
    return np.stack([np.asarray(picture, dtype=np.uint8).reshape(-1) for picture in small])
