"""The input embedding kept in the host's memory: a gigabyte of the published model's that a GPU then has for other things."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

from torch import Tensor, nn
from torch.nn import functional as F


class CpuEmbedding(nn.Embedding):
    """Looks rows up on the CPU and sends them to where the ids came from; stays there whatever the model is moved to."""

    @classmethod
    def of(cls, embedding: nn.Embedding) -> Self:
        """Takes the frozen weights of an embedding over."""
        made = cls(embedding.num_embeddings, embedding.embedding_dim, padding_idx=embedding.padding_idx, device="meta")
        made.weight = nn.Parameter(embedding.weight.detach().cpu(), requires_grad=False)
        return made

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        dtype = fn(self.weight.new_empty(0)).dtype  # a change of precision is followed, a move is not
        self.weight.data = self.weight.data.to(dtype)
        return self

    def forward(self, input: Tensor) -> Tensor:
        """Turns (B, L) ids of any device into (B, L, H) embeddings there."""
        return F.embedding(input.to(self.weight.device), self.weight, self.padding_idx).to(input.device)
