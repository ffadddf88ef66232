"""Precisions of numbers: their names here, in safetensors and in torch, and their size. No torch.

recipe "bf16" -> `Dtype` <- "BF16" in a weight file;  `getattr(torch, dtype.torch_name)` is torch's own
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Dtype:
    """One precision.

    Args:
        name: In recipes, contracts and messages.
        safetensors: In the header of a weight file.
        num_bytes: Of one number.
    """

    name: str
    safetensors: str
    num_bytes: int

    @property
    def torch_name(self) -> str:
        """Name of torch's dtype: an attribute of its module."""
        return f"bfloat{8 * self.num_bytes}" if self.name == "bf16" else self.name.replace("fp", "float")


DTYPES = (Dtype("bf16", "BF16", 2), Dtype("fp16", "F16", 2), Dtype("fp32", "F32", 4), Dtype("fp64", "F64", 8))
"""Every precision that weights and features come in. Source of safetensors' names: its README."""

UINT8 = Dtype("uint8", "U8", 1)
"""Of decoded frames; no weights come in it."""

BY_NAME = {dtype.name: dtype for dtype in DTYPES}
"""By our name."""

BY_SAFETENSORS = {dtype.safetensors: dtype for dtype in DTYPES}
"""By the name that safetensors gives it."""

STORED = {**BY_SAFETENSORS, UINT8.safetensors: UINT8}
"""By that name, all that a file of ours may hold."""
