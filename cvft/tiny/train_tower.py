"""First stage of the pre-training: the vision tower alone.

Frames of the tiny world -> what each cell holds, read by a linear head from what the language model will see: the projector's
output, and what else enters the decoder. A step of several frames is read as its last frame. Once it is right the tower is
frozen; a language model on a half-trained tower learns nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from cvft.tiny.architecture import Architecture
from cvft.tiny.schedule import Settings, TwoOptimizers, rate_factor
from cvft.tiny.world import NUM_CELLS, NUM_KINDS, SpriteBank


def random_cells(rng: np.random.Generator, *, num_frames: int) -> np.ndarray:
    """Returns (num_frames, 1, 4) cells with any content, about a third of them empty."""
    cells = rng.integers(1, NUM_KINDS + 1, size=(num_frames, 1, NUM_CELLS))
    return np.where(rng.random(cells.shape) < 0.35, 0, cells)


def frames_before(cells: np.ndarray, rng: np.random.Generator, *, num_frames: int) -> np.ndarray:
    """Puts frames before the last one of a step, in which a third of the cells hold something else.

    Args:
        cells: (N, 1, 4) of the last frame.
        rng: Source of chance; not asked for a step of one frame.
        num_frames: Frames of a step.

    Returns:
        (N, num_frames, 4), the last frame last.
    """
    earlier = []
    for _ in range(num_frames - 1):
        other = random_cells(rng, num_frames=len(cells))
        earlier.append(np.where(rng.random(cells.shape) < 0.3, other, cells))
    return np.concatenate([*earlier, cells], axis=1)


def train_tower(architecture: Architecture, *, settings: Settings, log: Callable[[str], None]) -> None:
    """Trains the tower and projector to tell what each cell holds.

    Args:
        architecture: Its tower is trained in place.
        settings: Numbers of the stage.
        log: Called with lines of text.
    """
    torch.manual_seed(settings.seed)
    bank, rng = SpriteBank(settings.seed, architecture.look), np.random.default_rng(settings.seed)
    num_frames, width = architecture.frames_per_step, architecture.embeddings.shape[1]
    with torch.no_grad():
        side = architecture.look.side_px
        num_levels = len(architecture.cell_features(torch.zeros(1, num_frames, 3, side, side)))
    heads = nn.ModuleList(nn.Linear(width, NUM_KINDS + 1) for _ in range(num_levels))
    named = architecture.tower_parameters()
    matrices = [p for name, p in named if p.dim() == 2 and "embed" not in name]
    kept = {id(p) for p in matrices}
    others = [p for _, p in named if id(p) not in kept] + list(heads.parameters())
    optimizer = TwoOptimizers(matrices, others, settings=settings)
    start = time.monotonic()
    for step in range(settings.tower_steps):
        cells = random_cells(rng, num_frames=settings.tower_frames)
        pixels = torch.from_numpy(bank.render(frames_before(cells, rng, num_frames=num_frames)))
        levels, targets = architecture.cell_features(pixels), torch.from_numpy(cells).flatten()
        logits = [head(features).flatten(0, 1) for head, features in zip(heads, levels, strict=True)]
        # a small pull keeps the features at the scale of embeddings
        pull = sum((features.pow(2).mean() - 1).pow(2) for features in levels)
        loss = torch.stack([F.cross_entropy(each, targets) for each in logits]).sum() + 1e-3 * pull
        loss.backward()
        optimizer.step(rate_factor(step, num_steps=settings.tower_steps, decay_share=settings.decay_share))
        if step % 50 == 49:
            right = " ".join(f"{(each.argmax(-1) == targets).float().mean().item():.4f}" for each in logits)
            seconds = time.monotonic() - start
            log(f"tower step {step + 1} loss {loss.item():.4f} cells right {right} at {seconds:.0f} s")
