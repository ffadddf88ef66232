"""What the pre-training asks of an architecture: how a row is written, what its tower sees, and how its decoder is run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from cvft.tiny.world import Look


@dataclass(frozen=True)
class ClipPrefix:
    """The part of a row that all questions about a clip share.

    Args:
        ids: P token ids.
        types: P numbers, 1 for tokens of the clip.
        positions: (P,) or (P, 3) rotary positions.
        step_places: Places of the tokens from which it must be possible to tell what each step of the clip shows.
    """

    ids: Sequence[int]
    types: Sequence[int]
    positions: Tensor
    step_places: Sequence[int]


class Writing(Protocol):
    """How rows are written: the clip first, then a question and its answer."""

    tokenizer: PreTrainedTokenizerFast
    block_tokens: int
    """Tokens kept for one question with its answer; the longest takes all."""
    stop_id: int
    """Token that ends an answer."""
    fill_id: int
    """Token behind a question and its answer, up to the end of its block."""

    def prefix(self, num_seconds: int) -> ClipPrefix:
        """Writes a clip."""

    def prompt(self, question: str) -> list[int]:
        """Writes a question, up to where the answer begins."""


class Architecture(Protocol):
    """A model of the tiny world's size, with the views of it that the two stages train."""

    name: str
    model: Any
    writing: Writing
    look: Look
    frames_per_step: int
    """Frames that become the tokens of one step."""

    def frame_seconds(self, num_seconds: int) -> np.ndarray:
        """Returns the second of the world that each frame of a clip shows, (F,)."""

    def tower_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Returns what the tower stage trains, by name."""

    def features(self, pixels: Tensor) -> Tensor:
        """Encodes pixels (B, F, 3, S, S) of B clips to what `hidden_states` takes; frozen in the second stage."""

    def cell_features(self, pixels: Tensor) -> list[Tensor]:
        """Encodes N single steps (N, frames_per_step, 3, S, S) to (N, 4, H) per place at which the decoder gets features."""

    def freeze_tower(self) -> None:
        """Stops the training of what `features` depends on."""

    def hidden_states(self, ids: Tensor, types: Tensor, positions: Tensor, mask: Tensor, features: Tensor) -> Tensor:
        """Runs the decoder over rows (B, L) with positions (B, L) or (B, L, 3) and an additive mask (B, 1, L, L)."""

    @property
    def layers(self) -> nn.ModuleList:
        """The decoder's layers."""

    @property
    def embeddings(self) -> Tensor:
        """The decoder's token embeddings, (V, H)."""

    def logits(self, states: Tensor) -> Tensor:
        """Scores the vocabulary from outputs of `hidden_states`."""

    def logits_before_norm(self, states: Tensor) -> Tensor:
        """Scores the vocabulary from states that the last norm has not seen."""

    def attention_excess(self, layer: nn.Module, hidden: Tensor, limit: float) -> Tensor:
        """Tells how far squared queries and keys of a layer, scaled so that their product is the logit, lie above a limit."""

    def write_files(self, folder: Path) -> None:
        """Writes everything of a checkpoint folder but its weights."""
