"""Answers as they are made: prompts join a batch that runs, each gets one token at every step, and leaves when it has ended.

prompts -> `Answering.join` -> first `Token` of each -> `Answering.step` -> one more for all -> ... -> a `Token` with its `Answer`
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor

OnText = Callable[[int, str], bool]
"""Takes the number of a prompt and text of its answer; tells whether the rest is still wanted."""


@dataclass(frozen=True)
class Answer:
    """What a model says to one row.

    Args:
        text: The answer, without control tokens and without white space around it.
        is_cut: Whether its tokens were used up before the model ended it.
    """

    text: str
    is_cut: bool


@dataclass(frozen=True)
class Drawing:
    """How each token of an answer is drawn, instead of taking the likeliest.

    Args:
        temperature: What logits are divided by, more than 0.
        top_p: Share of the probability that is drawn from, the likeliest tokens first; 1 draws from all.
        seed: Decides what is drawn, on the same machine with the same versions, whatever is answered at the same time.
    """

    temperature: float
    top_p: float
    seed: int


@dataclass(frozen=True)
class Token:
    """One token of one answer.

    Args:
        row: Number of the answer's row, as `Answering.join` gave it.
        piece: Text that it made certain, which may be empty; all pieces together are the answer.
        answer: The whole answer where this token ends it: it is the model's end, or the last that was allowed.
    """

    row: int
    piece: str
    answer: Answer | None


class Answering(Protocol):
    """A batch that runs. Each row is answered as it is alone, whatever joins or leaves beside it."""

    def join(
        self,
        prompts: Sequence[Mapping[str, Tensor]],
        *,
        max_new_tokens: Sequence[int],
        clips: Sequence[Hashable],
        drawings: Sequence[Drawing | None],
    ) -> list[Token]:
        """Adds rows, at least one.

        Args:
            prompts: Rows encoded without a response.
            max_new_tokens: Longest answer of each in tokens.
            clips: What tells the rows' clips apart, over all calls where prefixes are kept: equal ones are computed once.
            drawings: How to draw the tokens of each; None takes the likeliest.

        Returns:
            The first token of each, in their order. Where it raises, no row has joined, and those that run go on.
        """

    def step(self) -> list[Token]:
        """Returns one more token for every row that runs; none when there is no such row."""

    def leave(self, row: int) -> Answer:
        """Ends a row that runs, and returns what it has said."""
