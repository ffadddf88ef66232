"""Whether rows may train as one sequence, and from cached features: what was found on the user's own model. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Wanted = Literal["groups", "features"]
"""What may have to be proven of a model: that rows of one clip train together, that cached features stand for pixels."""


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
class FeatureProof:
    """The outcome of training a row both ways, from its clip's pixels and from its cached features.

    Args:
        holds: Whether both ways are equal to the bit.
        finding: What was measured, or why it could not be, in a sentence.
    """

    holds: bool
    finding: str

    def __str__(self) -> str:
        consequence = "each clip may be encoded once" if self.holds else "the tower encodes clips as they come"
        return f"{consequence}: {self.finding}"


@dataclass(frozen=True)
class Proofs:
    """What was found on a model of a family that does not promise it for all.

    Args:
        groups: Whether rows of one clip train together; None where nobody asked.
        features: Whether features are cached; None where nobody asked.
    """

    groups: GroupProof | None = None
    features: FeatureProof | None = None

    def of(self, what: Wanted) -> GroupProof | FeatureProof | None:
        """Returns one of them."""
        return self.groups if what == "groups" else self.features


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


def judge_features(*, loss: float, gradient: float, blind_loss: float) -> FeatureProof:
    """Compares what was measured with nothing: not a bit may differ.

    Args:
        loss: Difference of a row's loss between its clip's pixels and its features.
        gradient: Largest difference of a gradient.
        blind_loss: The same difference of losses for features that are all 0: what the proof has to find.
    """
    if not (loss == 0 and gradient == 0):  # also when a number is none
        return FeatureProof(
            False, f"from its cached features, the loss of a row differs by {loss:.1e} and a gradient by {gradient:.1e}"
        )
    if blind_loss == 0:
        return FeatureProof(False, "features that are all 0 give a row the same loss: nothing is shown")
    return FeatureProof(True, "from its cached features, a row has the loss and the gradient of its pixels, to the bit")
