"""Attention of one group of rows: one kernel under a mask of length x length, against a prefix and its questions apart.

    python benchmarks/group_attention.py [--repeats 5]

Queries, keys and values are random and have the heads of the published CogVLM2-Video; the prefix is a clip of 24 frames. Both
ways are timed in turns, forward and backward, in the time of this process's own CPU, and no number counts before the outcomes are
compared: with each other in fp64, and each in the precision that is timed with the mask in fp64, for the same rounded inputs.
The result goes to `benchmarks/results/group_attention--<device>.json`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from job import write_result
from torch import Tensor
from torch.nn import functional as F

from cvft.families.network.attention import group_attention, lengths_of
from cvft.families.network.grouping import group_attention_mask

HEADS, KEY_HEADS, HEAD_DIM = 32, 8, 128
"""Source: config.json of the published cogvlm2-video-llama3-chat."""

NUM_PREFIX, SHORTEST, LONGEST = 1616, 24, 96
"""Tokens of a clip of 24 frames, and of a question with its answer."""

Way = Callable[[Tensor, Tensor, Tensor], Tensor]


def main() -> None:
    """Measures groups of several sizes and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="times that each way is timed (%(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    runs = []
    for num_questions in (2, 4, 8, 24):
        for dtype in (torch.float32, torch.bfloat16):
            runs.append(measure(num_questions, dtype, repeats=options.repeats))
            print(json.dumps(runs[-1]), flush=True)
    timed = "attention of one group in one layer, forward and backward, in CPU time of one thread"
    write_result("group_attention", timed_region=timed, repeats=options.repeats, runs=runs)


def measure(num_questions: int, dtype: torch.dtype, *, repeats: int) -> dict[str, Any]:
    """Compares both ways for one group, and times them."""
    generator = torch.Generator().manual_seed(num_questions)
    lengths = torch.randint(SHORTEST, LONGEST + 1, (num_questions,), generator=generator).tolist()
    segments = torch.tensor([0] * NUM_PREFIX + [n for n, count in enumerate(lengths, 1) for _ in range(count)])
    ways: dict[str, Way] = {"mask": with_mask(segments), "apart": apart(segments)}
    shapes = [(1, heads, len(segments), HEAD_DIM) for heads in (HEADS, KEY_HEADS, KEY_HEADS)]
    exact = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    weight = torch.randn(1, HEADS, len(segments), HEAD_DIM, generator=generator, dtype=torch.float64)
    reference = run(ways["mask"], exact, weight)
    wide = distance(run(ways["apart"], exact, weight), reference)
    assert wide <= 1e-12, wide
    inputs = [tensor.to(dtype) for tensor in exact]
    rounded = run(ways["mask"], [tensor.double() for tensor in inputs], weight.to(dtype).double())
    errors = {name: distance(run(way, inputs, weight.to(dtype)), rounded) for name, way in ways.items()}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            start = time.process_time()
            run(way, inputs, weight.to(dtype))
            times[name].append(time.process_time() - start)
    seconds = {name: statistics.median(each) for name, each in times.items()}
    return {
        "num_questions": num_questions,
        "num_tokens": len(segments),
        "dtype": str(dtype).removeprefix("torch."),
        "fp64_distance": wide,
        "error": errors,
        "cpu_s": seconds,
        "mask_over_apart": seconds["mask"] / seconds["apart"],
    }


def with_mask(segments: Tensor) -> Way:
    """One call for all tokens, as the CogVLM2-Video of this project attends."""
    mask = group_attention_mask(segments[None])

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        key, value = (tensor.repeat_interleave(HEADS // KEY_HEADS, dim=1) for tensor in (key, value))
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)

    return attend


def apart(segments: Tensor) -> Way:
    """The prefix in one call and all its questions in another, as the other families attend."""
    lengths = [lengths_of(segments)]

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return group_attention(None, query, key, value, None, group_lengths=lengths)[0].transpose(1, 2)

    return attend


def run(way: Way, inputs: list[Tensor], weight: Tensor) -> list[Tensor]:
    """Returns what a way makes of its inputs, and the gradients of a weighted sum of that."""
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    out = way(*leaves)
    return [out.detach(), *torch.autograd.grad((out * weight).sum(), leaves)]


def distance(found: list[Tensor], reference: list[Tensor]) -> float:
    """Returns the largest distance of outcome and gradients from a reference, as shares of their norms."""
    return max(float((a.double() - b).norm() / b.norm()) for a, b in zip(found, reference, strict=True))


if __name__ == "__main__":
    main()
