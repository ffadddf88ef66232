"""Frozen weights in 4 or 8 bits, for training an adapter over them (QLoRA) and for answers on small GPUs; by bitsandbytes.

Only the linear layers of the decoder blocks are quantized. Vision tower, projector, embeddings and output layer keep their
precision: features stay the bits of the plain model, and logits are not rounded twice. Loads torch only to quantize.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cvft.errors import ModelError, Problem, quote
from cvft.families.packages import find_missing_package

if TYPE_CHECKING:
    import torch
    from transformers import BitsAndBytesConfig

LEAST_CAPABILITY = {"nf4": (6, 0), "int8": (7, 5)}
"""Oldest GPUs that the kernels run on, by compute capability. Source: bitsandbytes' installation guide."""


def quantization_config(
    kind: str, *, dtype: torch.dtype, on_cpu: bool, kept_modules: Sequence[str]
) -> BitsAndBytesConfig:
    """Says to transformers how to quantize while it loads.

    Args:
        kind: `nf4`, 4 bits per weight in blocks with quantized scales, as in the QLoRA paper; or `int8`, 8 bits per weight with
            outliers apart, as in the LLM.int8() paper.
        dtype: Precision of the computation.
        on_cpu: Whether the weights will lie there, and not on a GPU.
        kept_modules: Modules that keep their precision: the output layer, as in the QLoRA paper's code, and the vision half.

    Returns:
        The configuration.

    Raises:
        ModelError: when bitsandbytes is not installed, when the GPU is too old for its kernels.
    """
    import torch

    problem = find_missing_package(kind)
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

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # int8 would say at every product that it casts to fp16
    is_4_bit = kind == "nf4"
    return BitsAndBytesConfig(
        load_in_4bit=is_4_bit,
        load_in_8bit=not is_4_bit,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=list(kept_modules),
    )
