"""Precisions: what torch and safetensors say of them, not what we do."""

import pytest
import torch
from safetensors.torch import save

from cvft.dtypes import BY_NAME, BY_SAFETENSORS, DTYPES


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
def test_a_precision_has_the_names_and_the_size_that_the_libraries_give_it(dtype):
    theirs = getattr(torch, dtype.torch_name)
    assert theirs.itemsize == dtype.num_bytes
    assert f'"dtype":"{dtype.safetensors}"'.encode() in save({"x": torch.zeros(1, dtype=theirs)})
    assert BY_NAME[dtype.name] is BY_SAFETENSORS[dtype.safetensors] is dtype


def test_our_names_are_those_of_recipes():
    assert [dtype.torch_name for dtype in map(BY_NAME.get, ("bf16", "fp16", "fp32", "fp64"))] == [
        "bfloat16",
        "float16",
        "float32",
        "float64",
    ]
