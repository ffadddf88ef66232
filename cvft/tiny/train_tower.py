"""First stage of the pre-training: the vision tower alone.

Frames of the tiny world -> what each cell holds, read by a linear head from the projector's output, because that is what
the language model will see. Once it is right the tower is frozen; a language model on a half-trained tower learns nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from cvft.families.cogvlm2_video.network.modeling import CogVLM2VideoForCausalLM
from cvft.tiny.schedule import Settings, TwoOptimizers, rate_factor
from cvft.tiny.world import NUM_CELLS, NUM_KINDS, SpriteBank


def random_cells(rng: np.random.Generator, *, num_frames: int) -> np.ndarray:
    """Returns (num_frames, 1, 4) cells with any content, about a third of them empty."""
    cells = rng.integers(1, NUM_KINDS + 1, size=(num_frames, 1, NUM_CELLS))
    return np.where(rng.random(cells.shape) < 0.35, 0, cells)


def train_tower(model: CogVLM2VideoForCausalLM, *, settings: Settings, log: Callable[[str], None]) -> None:
    """Trains the tower and projector to tell what each cell holds.

    Args:
        model: Its `model.vision` is trained in place.
        settings: Numbers of the stage.
        log: Called with lines of text.
    """
    vision = model.model.vision
    torch.manual_seed(settings.seed)
    head = nn.Linear(model.config.hidden_size, NUM_KINDS + 1)
    bank, rng = SpriteBank(settings.seed), np.random.default_rng(settings.seed)
    named = [(name, p) for name, p in vision.named_parameters() if name not in ("boi", "eoi")]
    matrices = [p for name, p in named if p.dim() == 2 and "embed" not in name]
    kept = {id(p) for p in matrices}
    others = [p for _, p in named if id(p) not in kept] + list(head.parameters())
    optimizer = TwoOptimizers(matrices, others, settings=settings)
    start = time.monotonic()
    for step in range(settings.tower_steps):
        cells = random_cells(rng, num_frames=settings.tower_frames)
        pixels = torch.from_numpy(bank.render(cells)[:, 0])
        features = vision.linear_proj(vision.encode(pixels))
        logits, targets = head(features).flatten(0, 1), torch.from_numpy(cells).flatten()
        # a small pull keeps the features at the scale of embeddings
        loss = F.cross_entropy(logits, targets) + 1e-3 * (features.pow(2).mean() - 1).pow(2)
        loss.backward()
        optimizer.step(rate_factor(step, num_steps=settings.tower_steps, decay_share=settings.decay_share))
        if step % 50 == 49:
            right = (logits.argmax(-1) == targets).float().mean().item()
            log(
                f"tower step {step + 1} loss {loss.item():.4f} cells right {right:.4f} at {time.monotonic() - start:.0f} s"
            )
