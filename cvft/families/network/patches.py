"""Pixels: decoded frames become the patches that the tower was trained on.

frames uint8 (T, H, W, 3) -> resized, bicubic with antialias, still uint8 -> minus mean, over std -> last frame repeated
-> (t·h·w, 3·2·P²) fp32, the four patches of a token side by side

Two frames of a temporal grid go through at a time: the same bits as the whole clip at once, at a fraction of its memory.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from cvft.families.grid import Grid
from cvft.families.network.pixels import as_frames, resize_and_norm
from cvft.families.norms import PixelNorm


def preprocess_frames(
    frames: np.ndarray | Tensor, *, grid: Grid, patch_px: int, temporal_patch: int, norm: PixelNorm
) -> Tensor:
    """Turns decoded frames into patches.

    Args:
        frames: (T, H, W, 3) uint8 RGB.
        grid: The clip's patches, as its family counts them for these frames.
        patch_px: Side of a patch, P.
        temporal_patch: Frames of a temporal grid.
        norm: What channels are normalised with.

    Returns:
        (t·h·w, 3·temporal_patch·P²) fp32: temporal grids one after another, tokens row by row, within a token its patches.

    Source:
        `Qwen2VLVideoProcessor` and `Qwen3VLVideoProcessor` of transformers 4.57.6; golden vectors hold it, bit for bit.
    """
    frames = as_frames(frames)
    if -(-len(frames) // temporal_patch) != grid.num_grids:
        raise ValueError(f"frames: got {len(frames)}, need those of {grid.num_grids} grids of {temporal_patch}")
    size = grid.frame_px(patch_px)
    num_patches = grid.num_rows * grid.num_columns
    patches = torch.empty(grid.num_grids, num_patches, 3 * temporal_patch * patch_px**2)
    for number in range(grid.num_grids):
        x = resize_and_norm(frames[number * temporal_patch : (number + 1) * temporal_patch], size=size, norm=norm)
        if len(x) < temporal_patch:
            x = torch.cat([x, x[-1:].expand(temporal_patch - len(x), -1, -1, -1)])
        rows, columns = (side // grid.merge for side in (grid.num_rows, grid.num_columns))
        x = x.view(temporal_patch, 3, rows, grid.merge, patch_px, columns, grid.merge, patch_px)
        patches[number] = x.permute(2, 5, 3, 6, 1, 0, 4, 7).reshape(num_patches, -1)
    return patches.view(grid.num_patches, -1)
