"""Frozen weights in 4 or 8 bits, for training an adapter over them (QLoRA) and for answers on small GPUs; by bitsandbytes.

Only the linear layers of the decoder blocks become coarse. Vision tower, projector, embeddings and output layer keep their
precision: features stay the bits of the plain model, and logits are not rounded twice. Loads torch only to quantise.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cvft.errors import ModelError, Problem, quote

if TYPE_CHECKING:
    import torch
    from transformers import BitsAndBytesConfig

KEPT_MODULES = ("lm_head", "model.vision")
"""Modules that keep their precision. Source of the output layer: the QLoRA paper's code keeps it too."""

LEAST_CAPABILITY = {"nf4": (6, 0), "int8": (7, 5)}
"""Oldest GPUs that the kernels run on, by compute capability. Source: bitsandbytes' installation guide."""


BLOCK_WEIGHTS = 64
"""Weights that share a scale in nf4. Source: the QLoRA paper; bitsandbytes' CPU kernels need rows of whole blocks."""


COARSE_BYTES = {"nf4": 0.5 + 1 / 64 + 4 / (64 * 256), "int8": 1.0}
"""Bytes per weight with its scales: nf4 has a scale of 8 bits per 64 weights and one of 32 per 256 of those; int8 has one per
row, which is nothing. Source: the QLoRA and LLM.int8() papers, the defaults of bitsandbytes."""


def quantization_config(kind: str, *, dtype: torch.dtype, widths: Sequence[int], on_cpu: bool) -> BitsAndBytesConfig:
    """Says to transformers how to quantise while it loads.

    Args:
        kind: `nf4`, 4 bits per weight in blocks with quantised scales, as in the QLoRA paper; or `int8`, 8 bits per weight with
            outliers apart, as in the LLM.int8() paper.
        dtype: Precision of the computation.
        widths: Lengths of the rows of the weights.
        on_cpu: Whether the weights will lie there, and not on a GPU.

    Returns:
        The configuration.

    Raises:
        ModelError: when bitsandbytes is not installed, when the GPU is too old for its kernels, or when rows are unfit.
    """
    import torch

    problem = find_missing_package(kind) or find_unfit_width(kind, widths)
    if problem is None and not on_cpu:
        got = torch.cuda.get_device_capability()
        if got < LEAST_CAPABILITY[kind]:
            shown, need = (".".join(map(str, version)) for version in (got, LEAST_CAPABILITY[kind]))
            problem = Problem(
                "model.quantize",
                f"{quote(kind)} on a GPU of compute capability {shown}",
                f"at least {need}",
                "set model.quantize: none, or use a newer GPU",
            )
    if problem is not None:
        raise ModelError("this machine", [problem])
    from transformers import BitsAndBytesConfig

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # int8 would tell at every product that it casts to fp16
    is_4_bit = kind == "nf4"
    return BitsAndBytesConfig(
        load_in_4bit=is_4_bit,
        load_in_8bit=not is_4_bit,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=list(KEPT_MODULES),
    )


def bytes_per_value(name: str, *, dtype: str, quantize: str) -> float:
    """Returns what a value of a tensor takes in memory, by the tensor's published name."""
    is_coarse = name.startswith("model.layers.") and "norm" not in name and "inv_freq" not in name
    return COARSE_BYTES[quantize] if is_coarse and quantize != "none" else {"bf16": 2, "fp32": 4}[dtype]


def find_unfit_width(kind: str, widths: Sequence[int]) -> Problem | None:
    """Returns a problem when rows of weights cannot be cut into whole blocks."""
    unfit = [width for width in widths if width % BLOCK_WEIGHTS]
    if kind != "nf4" or not unfit:
        return None
    got = f"`nf4` for layers {' and '.join(map(str, unfit))} wide"
    return Problem("model.quantize", got, f"multiples of {BLOCK_WEIGHTS}", "set model.quantize: int8")


def find_missing_package(kind: str) -> Problem | None:
    """Returns a problem when a way to quantise needs a package that is not installed."""
    if kind == "none" or importlib.util.find_spec("bitsandbytes") is not None:
        return None
    return Problem("model.quantize", quote(kind), "the package bitsandbytes", "pip install 'cvft[quantized]'")
