"""Verification: does the merged model answer like the adapter it came from?

Both models score the same real rows, one after the other so that only one is in memory: `collect_outputs` collects logits
and greedy answers, `compare` holds them to limits that depend on the merged precision. A check that fails names rows
and numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import psutil
import torch
from torch import Tensor

from cvft.data.rows import Row
from cvft.errors import Problem, VerifyError, quote
from cvft.predict.predictor import Predictor

MAX_FP32_LOGIT_ERROR = 1e-4
"""Largest difference of any answer logit of fp32 weights, scored in fp64: what is left then is the rounding of the merged
weights. In fp32 the forward pass adds noise of its own and would hide a small fault. Measured on the tiny model's demo, all val
rows: 2.4e-6 in fp64, 4e-5 in fp32."""

MAX_BF16_ULPS = 32
"""Largest difference in bf16, in units of the last place of the largest logit: every merged weight is rounded once to 8
bits, and the differences add up over the layers. Measured: 13 units on the tiny model's demo."""

WEIGHTS_SHARE = 1.02
RESERVE_BYTES = 2 << 30
"""Memory for scoring beyond the weights: the adapter is a hundredth of them, activations of one row take up to 2 GiB."""

MIN_BF16_EQUAL_ANSWERS = 0.9
"""Share of greedy answers that must be identical in bf16, where two near-equal logits may swap."""


@dataclass(frozen=True)
class Outputs:
    """What one model said about the rows.

    Args:
        logits: Per row, (number of answer tokens, V) fp64 on the CPU.
        answers: Per row, the greedy answer.
    """

    logits: Sequence[Tensor]
    answers: Sequence[str]


@dataclass(frozen=True)
class LogitCheck:
    """The outcome of a comparison, stored beside the merged weights.

    Args:
        num_rows: Rows compared.
        max_logit_error: Largest difference of any answer logit.
        max_logit_error_allowed: The limit.
        largest_logit: Largest absolute logit of the adapter.
        num_equal_answers: Rows whose greedy answers are identical.
    """

    num_rows: int
    max_logit_error: float
    max_logit_error_allowed: float
    largest_logit: float
    num_equal_answers: int

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values for JSON."""
        return asdict(self)


def collect_outputs(
    predictor: Predictor,
    rows: Sequence[Row],
    *,
    max_new_tokens: int,
    on_progress: Callable[[int], object] | None = None,
) -> Outputs:
    """Collects what a model says about rows, one row at a time: answers in its own precision, logits of fp32 in fp64.

    Args:
        predictor: The model, every weight as it is stored.
        rows: The rows.
        max_new_tokens: Longest greedy answer in tokens.
        on_progress: Called with 1 after each row.

    Returns:
        The outputs.
    """
    answers = predictor.answer(rows, batch_rows=1, max_new_tokens=max_new_tokens)
    return Outputs(predictor.score(rows, on_progress=on_progress), [answer.text for answer in answers])


def compare(adapter: Outputs, merged: Outputs, *, locations: Sequence[str], dtype: str) -> LogitCheck:
    """Compares a merged model's outputs with its adapter's.

    Args:
        adapter: Outputs of base and adapter.
        merged: Outputs of the merged model.
        locations: Where each row was read, for messages.
        dtype: Precision of the merged weights, `bf16` or `fp32`.

    Returns:
        The numbers, all within their limits.

    Raises:
        VerifyError: when a logit or an answer differs by more than the precision explains.
    """
    errors = [(a - m).abs().max().item() for a, m in zip(adapter.logits, merged.logits, strict=True)]
    largest = max(row.abs().max().item() for row in adapter.logits)
    equal = [a == m for a, m in zip(adapter.answers, merged.answers, strict=True)]
    limit = MAX_FP32_LOGIT_ERROR if dtype == "fp32" else MAX_BF16_ULPS * bf16_ulp(largest)
    min_equal = len(equal) if dtype == "fp32" else MIN_BF16_EQUAL_ANSWERS * len(equal)
    hint = "the merged weights are not base + adapter; nothing was kept under the final name"
    problems = [
        Problem(f"{location}: logits", f"a difference of {error:.3g}", f"at most {limit:.3g} in {dtype}", hint)
        for location, error in zip(locations, errors, strict=True)
        if not error <= limit  # so that NaN fails
    ]
    if sum(equal) < min_equal:
        rows = zip(locations, adapter.answers, merged.answers, strict=True)
        problems += [
            Problem(f"{location}: answer", quote(got), f"{quote(want)} as the adapter answers", hint)
            for location, want, got in rows
            if want != got
        ]
    if problems:
        raise VerifyError("the merged model", problems)
    return LogitCheck(len(errors), max(errors), limit, largest, sum(equal))


def why_logits_do_not_fit(num_values: int, *, dtype: str, device: str, loaded_bytes: int = 0) -> str:
    """Says why a model cannot be scored here.

    Args:
        num_values: Its parameters.
        dtype: Precision of its weights, `bf16` or `fp32`; the latter are scored in fp64.
        device: `cpu` or `cuda`.
        loaded_bytes: What a model takes that is in memory already, and makes room.

    Returns:
        A sentence with what it needs and what is free, or nothing when it fits.
    """
    need = num_values * {"bf16": 2, "fp32": 8}[dtype] * WEIGHTS_SHARE + RESERVE_BYTES
    free = free_memory(device) + loaded_bytes
    if need <= free:
        return ""
    return f"logits were not compared: that takes {need / 2**30:.1f} GiB on {device}, {free / 2**30:.1f} GiB are free"


def free_memory(device: str) -> int:
    """Bytes that a device has left for new tensors."""
    if device == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    return int(psutil.virtual_memory().available)


def bf16_ulp(value: float) -> float:
    """Distance between neighbouring bf16 numbers at a positive `value`: 8 significant bits."""
    return float(2.0 ** (torch.tensor(value).log2().floor().item() - 7))
