"""What `cvft.families.family.Runtime` answers alike for every family whose weights run in a class of transformers."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from torch import Tensor

from cvft.families.family import Answer, Drawing, LabelLoss, OnText
from cvft.families.network.generation import generate_answers
from cvft.families.network.prefixes import KeptPrefixes
from cvft.families.network.scoring import batch_loss, label_logits


class StockRuntime:
    """Loss, logits and answers; weights and inputs are each family's own."""

    def loss(
        self, model: Any, batch: Mapping[str, Tensor], *, num_items: Any = None, label_logits_only: bool = True
    ) -> LabelLoss:
        """Runs the model on a batch with labels."""
        return batch_loss(model, batch, num_items=num_items, label_logits_only=label_logits_only)

    def label_logits(self, model: Any, batch: Mapping[str, Tensor]) -> Tensor:
        """Scores the positions that predict a label, and no others."""
        return label_logits(model, batch)

    def generate(
        self,
        model: Any,
        encoder: Any,
        prompts: Sequence[Mapping[str, Tensor]],
        *,
        max_new_tokens: int | Sequence[int],
        clips: Sequence[Hashable] | None = None,
        on_text: OnText | None = None,
        drawing: Drawing | None = None,
        kept: Any = None,
    ) -> list[Answer]:
        """Answers one batch of prompts."""
        return generate_answers(
            model,
            encoder,
            prompts,
            max_new_tokens=max_new_tokens,
            clips=clips,
            on_text=on_text,
            drawing=drawing,
            kept=kept,
        )

    def keep_prefixes(self, num_bytes: int) -> KeptPrefixes:
        """Returns room for what the model has made of clips."""
        return KeptPrefixes(num_bytes)
