"""What products cost in floating-point operations, for any family. One multiply-add is 2 FLOPs. No torch.

Source: each frozen linear layer with N weights costs a token 2N forward, 2N backward for the gradient of its input (none for its
weights) and 2N again where it is recomputed; attention costs 4h forward and 10h backward per visible (query, key) pair and layer
of width h, because the fused kernels compute the scores once more (5 products against 2; Dao, FlashAttention-2, arXiv 2307.08691,
section 3.1).
"""

FORWARD_FLOPS = 2
INPUT_GRADIENT_FLOPS = 2
WEIGHT_GRADIENT_FLOPS = 2
"""FLOPs per weight and token."""

ATTENTION_FORWARD_FLOPS = 4
ATTENTION_BACKWARD_FLOPS = 10
"""FLOPs per visible pair, layer and unit of width."""
