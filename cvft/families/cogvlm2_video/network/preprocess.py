"""Pixels: decoded frames become what the tower was trained on.

frames uint8 (T, H, W, 3) -> / 255 -> minus mean, over std -> short side to S, bilinear without antialias
-> centre crop -> (T, 3, S, S) fp32

The harsh downscaling is part of the training distribution; a smoother resize is a different model input.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cvft.families.cogvlm2_video.frames import crop_start, resized_size, seen_pixels

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
"""Mean of each colour channel. Source: OpenAI CLIP's preprocessing, as in the published demo."""
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""Standard deviation of each colour channel. Source: as `CLIP_MEAN`."""


def frames_to_keep(frames: np.ndarray, *, image_size: int) -> np.ndarray:
    """Takes the pixels out of decoded frames that `preprocess_frames` reads.

    Args:
        frames: (T, H, W, 3) uint8 RGB.
        image_size: Side of the model's input in pixels.

    Returns:
        (T, rows, columns, 3) uint8.
    """
    rows, columns = seen_pixels(*frames.shape[1:3], image_size=image_size)
    return frames[:, rows][:, :, columns]


def decoded_frames(kept: np.ndarray, *, size_px: tuple[int, int], image_size: int) -> np.ndarray:
    """Puts pixels back where `frames_to_keep` took them from; nothing is read of the others, which are black.

    Args:
        kept: (T, rows, columns, 3) uint8 RGB.
        size_px: Height and width of the decoded frames.
        image_size: Side of the model's input in pixels.

    Returns:
        (T, H, W, 3) uint8.
    """
    rows, columns = seen_pixels(*size_px, image_size=image_size)
    if kept.shape[1:3] == size_px:
        return kept
    frames = np.zeros((len(kept), *size_px, 3), np.uint8)
    frames[:, np.array(rows)[:, None], np.array(columns)] = kept
    return frames


def preprocess_frames(frames: np.ndarray | Tensor, *, image_size: int) -> Tensor:
    """Turns decoded frames into pixel values, one frame at a time.

    A frame goes through as (3, 1, H, W): bit-identical to the published call on the whole (3, T, H, W) clip, at a
    fraction of its memory.

    Args:
        frames: (T, H, W, 3) uint8 RGB.
        image_size: Side of the result in pixels.

    Returns:
        (T, 3, image_size, image_size) fp32.
    """
    frames = torch.from_numpy(frames) if isinstance(frames, np.ndarray) else frames
    if frames.dtype != torch.uint8 or frames.dim() != 4 or frames.shape[-1] != 3:
        raise ValueError(f"frames: got {frames.dtype} {tuple(frames.shape)}, need uint8 (T, H, W, 3)")
    num_frames, height_px, width_px, _ = frames.shape
    mean, std = (torch.tensor(values).view(3, 1, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    size = resized_size(height_px, width_px, image_size=image_size)
    top, left = (crop_start(side, image_size=image_size) for side in size)
    pixels = torch.empty(num_frames, 3, image_size, image_size)
    for i, frame in enumerate(frames):
        # channel by channel in memory, and in place: the same numbers in half the time
        x = frame.permute(2, 0, 1).contiguous()[:, None].float().div_(255.0).sub_(mean).div_(std)
        x = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
        pixels[i] = x[:, 0, top : top + image_size, left : left + image_size]
    return pixels
