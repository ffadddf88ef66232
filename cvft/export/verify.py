"""Verification: does the merged model answer like the adapter it came from?

outputs of adapter and merged model + what rounding alone explains -> `LogitCheck`, or an error that names rows and numbers

Both models score the same real rows, one after the other so that only one is in memory. Logits decide; answers that users get
are reported, and judged only where the adapter prefers its own by more than rounding explains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import psutil
import torch

from cvft.dtypes import BY_NAME
from cvft.errors import Problem, VerifyError, quote
from cvft.export.logits import Outputs, Reference, Scoring

LIMIT_FACTOR = 3.0
"""A logit may differ by so many times what moving the weights at random changes. Measured, the largest difference of a merged
model as a share of that change, all in bf16: 1.0 on the tiny model, 0.41 on SmolLM2-135M in the published form (0.14 of logits up
to 37, where bf16 computation alone adds 1.2)."""

MIN_LOGIT_LIMIT = 1e-4
"""No limit is smaller: nobody sees such a difference, and fp32 merges stay far below. Measured on the tiny model's demo, all val
rows: 2.4e-6 in fp64."""

MAX_TELLING_LIMIT = 1.0
"""A wider limit tells nothing: within a difference of one, the odds between two tokens change by a factor of e."""

TELLING_SHARE = 0.5
"""A limit tells something only where a merge without the adapter would show at least twice as much."""

WEIGHTS_SHARE = 1.02
RESERVE_BYTES = 2 << 30
"""Memory for scoring beyond the weights: the adapter is a hundredth of them, activations of one row take up to 2 GiB."""


@dataclass(frozen=True)
class Difference:
    """A row to which adapter and merged model give other answers.

    Args:
        row: Where it was read.
        token: Number of the first token that differs, from 0.
        margin: By how much the adapter scores its own token there above the merged model's.
    """

    row: str
    token: int
    margin: float


@dataclass(frozen=True)
class LogitCheck:
    """The outcome of a comparison, stored beside the merged weights.

    Args:
        num_rows: Rows compared.
        dtype: Precision that both were scored in.
        max_logit_error: Largest difference of any answer logit.
        max_logit_error_allowed: The limit.
        largest_logit: Largest absolute logit of the adapter.
        adapter_effect: Largest difference of a logit without the adapter.
        can_tell: Whether the limit is narrow enough to tell a damaged model.
        num_equal_answers: Rows whose greedy answers are identical.
        max_margin_explained: Margin between two tokens that rounding may turn around in an answer.
        differences: The other rows.
    """

    num_rows: int
    dtype: str
    max_logit_error: float
    max_logit_error_allowed: float
    largest_logit: float
    adapter_effect: float
    can_tell: bool
    num_equal_answers: int
    max_margin_explained: float
    differences: Sequence[Difference]

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values for JSON."""
        return asdict(self)


def compare(adapter: Reference, merged: Outputs, *, locations: Sequence[str], scoring: Scoring) -> LogitCheck:
    """Compares a merged model's outputs with its adapter's.

    Args:
        adapter: Outputs of base and adapter, and what rounding explains.
        merged: Outputs of the merged model.
        locations: Where each row was read, for messages.
        scoring: How both were scored.

    Returns:
        The numbers, all within their limits.

    Raises:
        VerifyError: when a logit differs by more than rounding explains, or an answer where the adapter's preference is clear.
    """
    ours = adapter.outputs
    errors = [(a.double() - m.double()).abs().max().item() for a, m in zip(ours.logits, merged.logits, strict=True)]
    limit = max(LIMIT_FACTOR * adapter.rounding, MIN_LOGIT_LIMIT)
    # both models' answers are computed with an error of their own, and two tokens change places by two errors each
    explained = 2 * (limit + LIMIT_FACTOR * adapter.computing)
    differences = [
        _first_difference(ours_ids, theirs_ids, logits=logits, row=location)
        for ours_ids, theirs_ids, logits, location in zip(
            ours.answer_ids, merged.answer_ids, adapter.answer_logits, locations, strict=True
        )
    ]
    hint = "the merged weights are not base + adapter; nothing was kept under the final name"
    problems = [
        Problem(f"{location}: logits", f"a difference of {error:.3g}", f"at most {limit:.3g} in {scoring.coarse}", hint)
        for location, error in zip(locations, errors, strict=True)
        if not error <= limit  # so that NaN fails
    ]
    problems += [
        Problem(
            f"{found.row}: answer",
            quote(theirs),
            f"{quote(want)} as the adapter answers: its token {found.token} is {found.margin:.3g} ahead, and rounding explains "
            f"{explained:.3g}",
            hint,
        )
        for found, want, theirs in zip(differences, ours.answers, merged.answers, strict=True)
        if found is not None and not found.margin <= explained
    ]
    if problems:
        raise VerifyError("the merged model", problems)
    others = [found for found in differences if found is not None]
    return LogitCheck(
        num_rows=len(errors),
        dtype=scoring.dtype,
        max_logit_error=max(errors),
        max_logit_error_allowed=limit,
        largest_logit=max(row.abs().max().item() for row in ours.logits),
        adapter_effect=adapter.effect,
        can_tell=limit <= min(MAX_TELLING_LIMIT, TELLING_SHARE * adapter.effect),
        num_equal_answers=len(errors) - len(others),
        max_margin_explained=explained,
        differences=others,
    )


def _first_difference(
    ours: Sequence[int], theirs: Sequence[int], *, logits: torch.Tensor, row: str
) -> Difference | None:
    """Finds the first token that differs; every answer ends with the same end token, so none is the beginning of another."""
    for number, (mine, other) in enumerate(zip(ours, theirs, strict=False)):
        if mine != other:
            return Difference(row, number, (logits[number, mine] - logits[number, other]).item())
    return None


def choose_scoring(dtypes: Sequence[str], *, num_values: int, device: str, loaded_bytes: int = 0) -> Scoring | str:
    """Decides how two models are compared: in the finest precision that there is room for.

    Args:
        dtypes: Precision of the trained and of the merged weights, `bf16` or `fp32`.
        num_values: Parameters of the model.
        device: `cpu` or `cuda`.
        loaded_bytes: What a model takes that is in memory already, and makes room.

    Returns:
        How, or a sentence with what it needs and what is free.
    """
    sizes = [BY_NAME[dtype].num_bytes for dtype in dtypes]
    coarse = dtypes[sizes.index(min(sizes))]
    rounds = max(sizes) if min(sizes) < max(sizes) else 0  # weights that are rounded are kept to be put back
    finer = "fp64" if coarse == "fp32" else "fp32"
    free = free_memory(device) + loaded_bytes
    for dtype in (finer, coarse):
        need = num_values * (BY_NAME[dtype].num_bytes + rounds) * WEIGHTS_SHARE + RESERVE_BYTES
        if need <= free:
            return Scoring(coarse, dtype)
    return f"logits were not compared: that takes {need / 2**30:.1f} GiB on {device}, {free / 2**30:.1f} GiB are free"


def free_memory(device: str) -> int:
    """Bytes that a device has left for new tensors."""
    if device == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    return int(psutil.virtual_memory().available)
