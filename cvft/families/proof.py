"""Whether rows of one clip may train as one sequence: what was found on the user's own model. No torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GroupProof:
    """The outcome of training two rows of one clip both ways, apart and as one sequence.

    Args:
        holds: Whether both ways are equal within the limits of the precision.
        finding: What was measured, or why it could not be, in a sentence.
    """

    holds: bool
    finding: str

    def __str__(self) -> str:
        consequence = "rows of one clip train together" if self.holds else "rows train apart"
        return f"{consequence}: {self.finding}"


@dataclass(frozen=True)
class Limits:
    """How far two ways of the same computation may be apart.

    Args:
        nll: Of a row's loss per label token.
        gradient: Of a gradient, as a share of its norm.
    """

    nll: float
    gradient: float


LIMITS = {"fp32": Limits(1e-4, 1e-3), "bf16": Limits(5e-2, 1e-1)}
"""By the precision of the weights. Source: on proven families both ways differ by at most 2e-6 and 2e-6 in fp32, 2e-2 and 1e-2 in
bf16; one sequence in which rows see each other differs by 6e-1 and 8e-1. Their tests measure their own."""


def judge(*, nll: float, gradient: float, seeing_nll: float, seeing_gradient: float, dtype: str) -> GroupProof:
    """Compares what was measured with the limits.

    Args:
        nll: Largest difference of a row's loss per label token between apart and together.
        gradient: Difference of a gradient between apart and together, as a share of its norm.
        seeing_nll: The same difference of losses for rows in one sequence that see each other: what the proof has to find.
        seeing_gradient: The same of gradients.
        dtype: Precision of the weights.
    """
    limits = LIMITS[dtype]
    measured = (
        f"two rows of its first shared clip, apart and together, differ by {nll:.1e} per label token (limit {limits.nll:g}) and "
        f"{gradient:.1e} of a gradient (limit {limits.gradient:g})"
    )
    if not (nll <= limits.nll and gradient <= limits.gradient):  # also when a number is none
        return GroupProof(False, measured)
    if not (seeing_nll > limits.nll or seeing_gradient > limits.gradient):
        seen = f"{seeing_nll:.1e} and {seeing_gradient:.1e}"
        return GroupProof(
            False, f"{measured}, but rows that see each other differ by no more ({seen}): nothing is shown"
        )
    return GroupProof(True, measured)
