"""Verification: does the merged model answer like the adapter it came from?

Both models score the same real rows, one after the other so that only one is in memory: `trace` collects logits and
greedy answers, `compare` holds two traces to limits that depend on the merged precision. A check that fails names rows
and numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cvft.errors import Problem, VerifyError, quote
from cvft.families.cogvlm2_video.layout import IGNORED_LABEL
from cvft.families.cogvlm2_video.network.generation import generate_answers
from cvft.families.cogvlm2_video.network.processor import CogVLM2VideoProcessor

MAX_FP32_LOGIT_ERROR = 1e-4
"""Largest difference of any answer logit of fp32 weights, scored in fp64: what is left then is the rounding of the merged
weights. In fp32 the forward pass adds noise of its own and would hide a small fault. Measured on the tiny model's demo, all val
rows: 2.4e-6 in fp64, 4e-5 in fp32."""

MAX_BF16_ULPS = 32
"""Largest difference in bf16, in units of the last place of the largest logit: every merged weight is rounded once to 8
bits, and the differences add up over the layers. Measured: 13 units on the tiny model's demo."""

WEIGHTS_SHARE = 1.02
RESERVE_BYTES = 2 << 30
"""Memory for scoring besides the weights: the adapter is a hundredth of them, activations of one row take up to 2 GiB."""

MIN_BF16_EQUAL_ANSWERS = 0.9
"""Share of greedy answers that must be identical in bf16, where two near-equal logits may swap."""


@dataclass(frozen=True)
class Trace:
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


def trace(
    model: Any,
    processor: CogVLM2VideoProcessor,
    *,
    scored: Sequence[Mapping[str, Tensor]],
    prompts: Sequence[Mapping[str, Tensor]],
    max_new_tokens: int,
    on_progress: Callable[[int], object] | None = None,
) -> Trace:
    """Collects what a model says about rows, one row at a time: answers in its own precision, logits of fp32 in fp64.

    Args:
        model: The model, or a peft model around it; an fp32 one is fp64 afterwards.
        processor: Its processor.
        scored: Rows encoded with their answers.
        prompts: The same rows without them.
        max_new_tokens: Longest greedy answer in tokens.
        on_progress: Called with 1 after each row.

    Returns:
        The trace.
    """
    answers = []
    for prompt in prompts:
        answers += generate_answers(model, processor, [prompt], max_new_tokens=max_new_tokens)
    if model.dtype == torch.float32:
        model = model.double()
    logits = []
    for row in scored:
        batch = {key: value.to(model.device) for key, value in processor.collate([row]).items()}
        labels = batch.pop("labels")
        predicts = torch.zeros_like(labels[0], dtype=torch.bool)
        predicts[:-1] = labels[0, 1:] != IGNORED_LABEL
        with torch.inference_mode():
            logits.append(model(**batch, logits_to_keep=predicts).logits[0].double().cpu())
        if on_progress is not None:
            on_progress(1)
    return Trace(logits, answers)


def compare(adapter: Trace, merged: Trace, *, places: Sequence[str], dtype: str) -> LogitCheck:
    """Holds a merged model's trace against its adapter's.

    Args:
        adapter: Trace of base and adapter.
        merged: Trace of the merged model.
        places: Where each row was read, for messages.
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
        Problem(f"{place}: logits", f"a difference of {error:.3g}", f"at most {limit:.3g} in {dtype}", hint)
        for place, error in zip(places, errors, strict=True)
        if not error <= limit  # so that NaN fails
    ]
    if sum(equal) < min_equal:
        rows = zip(places, adapter.answers, merged.answers, strict=True)
        problems += [
            Problem(f"{place}: answer", quote(got), f"{quote(want)} as the adapter answers", hint)
            for place, want, got in rows
            if want != got
        ]
    if problems:
        raise VerifyError("the merged model", problems)
    return LogitCheck(len(errors), max(errors), limit, largest, sum(equal))


def why_logits_do_not_fit(num_values: int, *, dtype: str, device: str) -> str:
    """Says why a model cannot be scored here.

    Args:
        num_values: Its parameters.
        dtype: Precision of its weights, `bf16` or `fp32`; the latter are scored in fp64.
        device: `cpu` or `cuda`.

    Returns:
        A sentence with what it needs and what is free, or nothing when it fits.
    """
    need = num_values * {"bf16": 2, "fp32": 8}[dtype] * WEIGHTS_SHARE + RESERVE_BYTES
    free = free_memory(device)
    if need <= free:
        return ""
    return f"logits were not compared: that takes {need / 2**30:.1f} GiB on {device}, {free / 2**30:.1f} GiB are free"


def free_memory(device: str) -> int:
    """Bytes that a device has left for new tensors."""
    if device == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    (line,) = [line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable:")]
    return int(line.split()[1]) * 1024


def bf16_ulp(value: float) -> float:
    """Distance between neighbouring bf16 numbers at a positive `value`: 8 significant bits."""
    return float(2.0 ** (torch.tensor(value).log2().floor().item() - 7))
