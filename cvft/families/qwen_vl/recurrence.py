"""What the gated delta rule of Qwen3.5's recurrent blocks computes and keeps. No torch.

Source: its chunked form (Yang et al., arXiv 2412.06464, section 3.3) as transformers 5.19 computes it, without kernels of others,
which keep less.
"""

from __future__ import annotations

from dataclasses import dataclass

from cvft.families.costs import FP32_BYTES, Batch, Precision
from cvft.families.qwen_vl.sizes import DeltaNetSizes

DELTA_CHUNK = 64
"""Tokens that the gated delta rule takes at a time. Source: `torch_chunk_gated_delta_rule` of transformers; fla's are as long."""

SHARED_INPUTS = (("in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a"),)
"""Layers of a recurrent block that read one tensor."""


@dataclass(frozen=True)
class DeltaRule:
    """Mixes tokens; see `cvft.families.decoder_costs.Mixer`.

    Args:
        sizes: Its sizes.
    """

    sizes: DeltaNetSizes

    def kept_bytes(self, batch: Batch, precision: Precision) -> int:
        """Counts what it keeps of a micro-batch, in fp32; autocast makes copies in bf16 of what goes into products."""
        sizes = self.sizes
        heads, keys, values = sizes.num_value_heads, sizes.key_head_dim, sizes.value_head_dim
        is_cast = precision.is_autocast
        of_chunk = (2 * FP32_BYTES + 3 * precision.dtype_bytes) if is_cast else 5 * FP32_BYTES
        of_keys = (4 * FP32_BYTES + 6 * precision.dtype_bytes) if is_cast else 6 * FP32_BYTES
        of_values = (2 * FP32_BYTES + 2 * precision.dtype_bytes) if is_cast else 3 * FP32_BYTES
        of_state = (FP32_BYTES + 2 * precision.dtype_bytes) if is_cast else FP32_BYTES
        gates = 4 * FP32_BYTES
        chunked = (
            of_chunk * DELTA_CHUNK
            + of_keys * keys
            + of_values * values
            + of_state * keys * values // DELTA_CHUNK
            + gates
        )
        # before the rule: query and key before their norms; behind it: the gated norm, whose gate passes through silu
        norm = 3 * FP32_BYTES + precision.dtype_bytes
        plain = norm * values + 6 * FP32_BYTES
        mixed = heads * 2 * FP32_BYTES * keys + 2 * sizes.qkv_width * precision.dtype_bytes
        # through the convolution pass the tokens, and those before them that it reaches back to
        num_mixed = sum(num * (length + sizes.kernel_size - 1) for num, length in delta_runs(batch))
        return chunked_tokens(batch) * heads * chunked + num_mixed * mixed + batch.num_tokens * heads * plain

    def flops(self, batch: Batch, *, num_forward: int) -> int:
        """Counts the rule and the convolution before it; a product's backward pass has two products of its size."""
        return (num_forward + 2) * chunked_tokens(batch) * self._token_flops()

    def _token_flops(self) -> int:
        """Counts one token, forward.

        Of a chunk of C tokens, each value head computes two products of C x C x keys, one of C x C x values, and three with the
        state, C x keys x values; the triangular systems take as much as C x C x (keys + values) in half a product.
        """
        keys, values = self.sizes.key_head_dim, self.sizes.value_head_dim
        of_chunk = 2 * DELTA_CHUNK * (2 * keys + values) + DELTA_CHUNK * (keys + values)
        of_heads = self.sizes.num_value_heads * (of_chunk + 3 * 2 * keys * values)
        return of_heads + 2 * self.sizes.kernel_size * self.sizes.qkv_width


def delta_runs(batch: Batch) -> tuple[tuple[int, int], ...]:
    """Returns the calls of the gated delta rule in one block: how many sequences, and of how many tokens each.

    Where a clip has several questions, all prefixes are one call, with single questions behind theirs, and all other questions
    are another.
    """
    several = [group for group in batch.groups if len(group.question_tokens) > 1]
    if not several:
        return ((batch.num_sequences, batch.num_tokens // max(batch.num_sequences, 1)),)
    prefixes = [group.num_prefix_tokens if group in several else group.num_tokens for group in batch.groups]
    questions = [length for group in several for length in group.question_tokens]
    return (len(prefixes), max(prefixes)), (len(questions), max(questions))


def chunked_tokens(batch: Batch) -> int:
    """Returns the tokens that the gated delta rule computes: sequences are padded to whole chunks."""
    return sum(num * -(-length // DELTA_CHUNK) * DELTA_CHUNK for num, length in delta_runs(batch))
