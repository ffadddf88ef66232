"""Decoded frames become numbers as towers were trained on them: resized as bytes, then normalised."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cvft.families.norms import PixelNorm


def as_frames(frames: np.ndarray | Tensor) -> Tensor:
    """Returns decoded frames as a tensor.

    Args:
        frames: (T, H, W, 3) uint8 RGB.

    Raises:
        ValueError: when they are none.
    """
    frames = torch.from_numpy(frames) if isinstance(frames, np.ndarray) else frames
    if frames.dtype != torch.uint8 or frames.dim() != 4 or frames.shape[-1] != 3:
        raise ValueError(f"frames: got {frames.dtype} {tuple(frames.shape)}, need uint8 (T, H, W, 3)")
    return frames


def resize(frames: Tensor, *, size: tuple[int, int]) -> Tensor:
    """Resizes frames, bicubic with antialias.

    Args:
        frames: (T, H, W, 3) uint8 RGB.
        size: Height and width of the result.

    Returns:
        (T, 3, height, width) uint8.
    """
    x = frames.permute(0, 3, 1, 2).contiguous()
    if x.shape[-2:] != size:
        x = F.interpolate(x, size=size, mode="bicubic", antialias=True, align_corners=False)
    return x


def resize_as_bytes(frames: np.ndarray | Tensor, *, size: tuple[int, int]) -> np.ndarray:
    """Resizes frames as `resize` does, one at a time: the same bits as all at once, at a fraction of the memory.

    Args:
        frames: (T, H, W, 3) uint8 RGB.
        size: Height and width of the result.

    Returns:
        (T, height, width, 3) uint8.
    """
    frames = as_frames(frames)
    resized = torch.empty(len(frames), *size, 3, dtype=torch.uint8)
    for number in range(len(frames)):
        resized[number] = resize(frames[number : number + 1], size=size)[0].permute(1, 2, 0)
    return resized.numpy()


def resize_and_norm(frames: Tensor, *, size: tuple[int, int], norm: PixelNorm) -> Tensor:
    """Resizes frames, bicubic with antialias and still uint8, and normalises them.

    Args:
        frames: (T, H, W, 3) uint8 RGB.
        size: Height and width of the result.
        norm: What channels are normalised with.

    Returns:
        (T, 3, height, width) fp32.

    Source:
        The video processors of transformers 4.57.6; golden vectors hold it, bit for bit.
    """
    x = resize(frames, size=size)
    mean, std = ((torch.tensor(values) * 255).view(3, 1, 1) for values in (norm.mean, norm.std))
    return (x.float() - mean) / std
