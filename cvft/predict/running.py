"""A predictor's batch that runs: prompts join it and leave it at any step.

`Prompt`s -> `RunningPrompts.join` -> first tokens -> `step` -> one more of each
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cvft.families.answering import Answer, Drawing, Token
from cvft.predict.predictor import Predictor, Prompt


class RunningPrompts:
    """One batch. Batches of several predictors of one model may run side by side: each step says whose adapter takes part.

    Args:
        predictor: What made the prompts.
        kept: Clips of other batches of the same predictor, from `Runtime.keep_prefixes`.
    """

    def __init__(self, predictor: Predictor, *, kept: Any) -> None:
        self._predictor = predictor
        self._rows = predictor.runtime.start_answering(predictor.model, predictor.encoder, kept=kept)

    def join(self, prompts: Sequence[Prompt], *, drawings: Sequence[Drawing | None]) -> list[Token]:
        """Adds prompts, at least one, and returns their first tokens; where it raises, none has joined.

        Args:
            prompts: What `Predictor.prepare` returned.
            drawings: How to draw the tokens of each; None takes the likeliest.
        """
        with self._predictor.taking_part():
            return self._rows.join(
                [prompt.tensors for prompt in prompts],
                max_new_tokens=[prompt.max_new_tokens for prompt in prompts],
                clips=[prompt.clips or None for prompt in prompts],
                drawings=drawings,
            )

    def step(self) -> list[Token]:
        """Returns one more token of each answer that runs."""
        with self._predictor.taking_part():
            return self._rows.step()

    def leave(self, row: int) -> Answer:
        """Ends an answer that runs, and returns what it has said."""
        return self._rows.leave(row)
