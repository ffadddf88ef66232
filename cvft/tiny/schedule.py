"""Settings, learning rates and optimizers of the tiny model's pre-training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Settings:
    """Numbers of one pre-training.

    Args:
        seed: Seed of weights, scenes and questions.
        tower_steps: Optimizer steps of the tower stage.
        tower_frames: Frames per step there.
        lm_steps: Optimizer steps of the language-model stage.
        clips: Clips per step there.
        questions: Questions per clip there.
        reuse: How often rendered clips are asked, each time with fresh questions.
        muon_lr: Peak rate of the matrices.
        adam_lr: Peak rate of embeddings, norms, output layer and biases.
        decay_share: Last share of a stage over which the rates fall to zero.
        event_loss: Weight of the dense loss.
        vocab_loss: Weight of the loss that keeps every token sayable.
        attention_loss: Weight of the loss that keeps attention logits small.
        max_attention_logit: Size from which that loss counts.
    """

    seed: int = 0
    tower_steps: int = 400
    tower_frames: int = 192
    lm_steps: int = 9600
    clips: int = 32
    questions: int = 7
    reuse: int = 3
    muon_lr: float = 0.02
    adam_lr: float = 3e-3
    decay_share: float = 0.3
    event_loss: float = 0.5
    vocab_loss: float = 0.1
    attention_loss: float = 0.01
    max_attention_logit: float = 25.0


def rate_factor(step: int, *, num_steps: int, decay_share: float) -> float:
    """Returns the factor of the peak rate: a short warm-up, a plateau, then a straight line to zero."""
    warm = min(1.0, (step + 1) / 50)
    return warm * min(1.0, (num_steps - step) / (num_steps * decay_share))


class TwoOptimizers:
    """Muon for the matrices, AdamW for everything else, under one schedule.

    Args:
        matrices: Two-dimensional weights of hidden layers.
        others: Everything else that trains.
        settings: Peak rates.
    """

    def __init__(self, matrices: Sequence[Tensor], others: Sequence[Tensor], *, settings: Settings) -> None:
        self.parts = (
            torch.optim.Muon(matrices, lr=settings.muon_lr, weight_decay=0.01, momentum=0.95),
            torch.optim.AdamW(others, lr=settings.adam_lr, weight_decay=0.0, betas=(0.9, 0.98)),
        )
        self.peaks = (settings.muon_lr, settings.adam_lr)
        self.params = [*matrices, *others]

    def step(self, factor: float) -> None:
        """Clips, steps at `factor` of the peak rates, and clears the gradients."""
        nn.utils.clip_grad_norm_(self.params, 1.0)
        for part, peak in zip(self.parts, self.peaks, strict=True):
            for group in part.param_groups:
                group["lr"] = peak * factor
            part.step()
            part.zero_grad(set_to_none=True)

    def state_dict(self) -> list[dict[str, Any]]:
        """Returns the state of both."""
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Restores the state of both."""
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(state)
