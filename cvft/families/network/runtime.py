"""What `cvft.families.runtime.Runtime` answers alike for several families."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from torch import Tensor

from cvft.families.answering import Answer, OnText
from cvft.families.network.answering import Batcher, RunningRows
from cvft.families.network.generation import generate_answers
from cvft.families.network.prefixes import KeptPrefixes
from cvft.families.network.scoring import batch_loss, label_logits
from cvft.families.runtime import LabelLoss


class AnswersPrompts:
    """Answers, for every family."""

    def batcher(self, encoder: Any) -> Batcher:
        """Returns what makes inputs of an encoder's rows."""
        batcher: Batcher = encoder
        return batcher

    def generate(
        self,
        model: Any,
        encoder: Any,
        prompts: Sequence[Mapping[str, Tensor]],
        *,
        max_new_tokens: int | Sequence[int],
        clips: Sequence[Hashable] | None = None,
        on_text: OnText | None = None,
    ) -> list[Answer]:
        """Answers one batch of prompts."""
        return generate_answers(
            model, self.batcher(encoder), prompts, max_new_tokens=max_new_tokens, clips=clips, on_text=on_text
        )

    def start_answering(self, model: Any, encoder: Any, *, kept: Any = None) -> RunningRows:
        """Starts a batch that prompts may join and leave."""
        return RunningRows(model, self.batcher(encoder), kept=kept)

    def keep_prefixes(self, num_bytes: int) -> KeptPrefixes:
        """Returns room for what the model has made of clips."""
        return KeptPrefixes(num_bytes)


class StockRuntime(AnswersPrompts):
    """Loss, logits and answers of models that run in a class of transformers; weights and inputs are each family's own."""

    def loss(
        self, model: Any, batch: Mapping[str, Tensor], *, num_items: Any = None, label_logits_only: bool = True
    ) -> LabelLoss:
        """Runs the model on a batch with labels."""
        return batch_loss(model, batch, num_items=num_items, label_logits_only=label_logits_only)

    def label_logits(self, model: Any, batch: Mapping[str, Tensor]) -> Tensor:
        """Scores the positions that predict a label, and no others."""
        return label_logits(model, batch)
