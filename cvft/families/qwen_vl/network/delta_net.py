"""Groups in Qwen3.5's recurrent layers, where no mask hides one question from the next.

hidden states (B, L, H)    projected once, token by token
prefixes      (B, P, C)    one call of the kernel, from nothing -> outputs, and what they leave behind
questions     (Q, m, C)    one call: each starts from what its prefix left behind -> outputs
outputs of both, every one in its token's place -> (B, L, H)

A prefix leaves behind its last columns before the convolution, which reaches back so far, and the recurrent state. Gradients flow
through both. Everything else is as transformers' layer does it.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.integrations.accelerate import force_accelerate_hooks
from transformers.models.qwen3_5 import modeling_qwen3_5
from transformers.models.qwen3_5_moe.modeling_qwen3_5_moe import Qwen3_5MoeGatedDeltaNet

from cvft.families.network.attention import GroupLengths
from cvft.families.network.places import Places
from cvft.families.network.scoring import become


class ForksStates:
    """Computes groups; everything else is transformers'. Stands before one of its classes."""

    activation: str
    conv_kernel_size: int
    head_k_dim: int
    head_v_dim: int
    key_dim: int
    value_dim: int
    num_k_heads: int
    num_v_heads: int
    A_log: Tensor
    dt_bias: Tensor
    conv1d: Any
    in_proj_a: Any
    in_proj_b: Any
    in_proj_qkv: Any
    in_proj_z: Any
    norm: Any
    out_proj: Any

    def forward(
        self,
        hidden_states: Tensor,
        cache_params: Any = None,
        attention_mask: Tensor | None = None,
        group_lengths: GroupLengths | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Mixes tokens within groups, or calls transformers' own forward where no sequence has questions.

        Args:
            hidden_states: (B, L, H).
            cache_params: For transformers' own forward.
            attention_mask: For transformers' own forward; with groups padding stands behind all that counts.
            group_lengths: The batch's groups; None for calls without.
            kwargs: Whatever else transformers passes on.

        Returns:
            (B, L, H).
        """
        if group_lengths is None or not any(lengths for _, lengths in group_lengths):
            own = cast(Any, super()).forward
            return own(hidden_states, cache_params=cache_params, attention_mask=attention_mask, **kwargs)
        return self._mix_groups(hidden_states, group_lengths)

    @force_accelerate_hooks("conv1d")
    def _mix_groups(self, hidden_states: Tensor, group_lengths: GroupLengths) -> Tensor:
        num_sequences, length, _ = hidden_states.shape
        places = Places.of(group_lengths, length=length, device=hidden_states.device)
        # in the order of transformers' forward: ZeRO adds up what ranks have in the order in which gradients come, and another
        # rank may have no groups
        columns = self.in_proj_qkv(hidden_states)
        gate = self.in_proj_z(hidden_states).reshape(-1, self.head_v_dim)
        beta = self.in_proj_b(hidden_states).sigmoid()
        decay = -self.A_log.float().exp() * F.softplus(self.in_proj_a(hidden_states).float() + self.dt_bias)

        longest, reach = places.behind.shape[1], self.conv_kernel_size - 1
        prefixes = F.pad(columns[:, :longest], (0, 0, reach, 0))
        # behind a shorter prefix the state stays as it is: nothing decays and nothing is written
        kept = (values[:, :longest].masked_fill(places.behind[..., None], 0) for values in (decay, beta))
        outputs, states = self._mix(prefixes, *kept, states=None)

        owners = places.owners
        last = places.num_prefix[owners, None] + torch.arange(reach, device=owners.device)
        # by index: index_select's backward would add up what questions give their prefix in any order on a GPU
        before, states = prefixes[owners[:, None], last], states[owners]
        columns, decay, beta = (_take(values, places.questions) for values in (columns, decay, beta))
        answers, _ = self._mix(torch.cat((before, columns), dim=1), decay, beta, states=states)

        mixed = _take(torch.cat((outputs.flatten(0, 1), answers.flatten(0, 1)))[None], places.outputs)
        normed = self.norm(mixed.reshape(-1, self.head_v_dim), gate)
        return cast(Tensor, self.out_proj(normed.reshape(num_sequences, length, -1)))

    def _mix(self, columns: Tensor, decay: Tensor, beta: Tensor, *, states: Tensor | None) -> tuple[Tensor, Tensor]:
        """Convolves (N, reach + n, C) and runs the delta rule over the n; returns (N, n, heads, D) and the last states."""
        weight = self.conv1d.weight.squeeze(1)
        mixed = modeling_qwen3_5.causal_conv1d_fn(
            columns.transpose(1, 2), weight, self.conv1d.bias, activation=self.activation
        )
        mixed = mixed.transpose(1, 2)[:, self.conv_kernel_size - 1 :]
        query, key, value = mixed.split((self.key_dim, self.key_dim, self.value_dim), dim=-1)
        repeats = self.num_v_heads // self.num_k_heads
        query, key = (
            part.unflatten(-1, (-1, self.head_k_dim)).repeat_interleave(repeats, dim=2) for part in (query, key)
        )
        value = value.unflatten(-1, (-1, self.head_v_dim))
        # the kernel that transformers' layer would run: flash-linear-attention's where it is installed
        mix = cast(Any, modeling_qwen3_5.torch_chunk_gated_delta_rule)
        return cast(
            tuple[Tensor, Tensor],
            mix(
                query,
                key,
                value,
                g=decay,
                beta=beta,
                initial_state=states,
                output_final_state=True,
                use_qk_l2norm_in_kernel=True,
            ),
        )


def _take(values: Tensor, places: Tensor) -> Tensor:
    """Takes rows of (B, L, ...) by their numbers in B·L; only padding, whose gradient is 0, has one that another has too."""
    return values.flatten(0, 1).index_select(0, places.flatten()).unflatten(0, places.shape)


def _forking(base: type) -> type:
    return type(base.__name__, (ForksStates, base), {"__module__": __name__})


CLASSES = {base: _forking(base) for base in (modeling_qwen3_5.Qwen3_5GatedDeltaNet, Qwen3_5MoeGatedDeltaNet)}
"""transformers' layers, and the same with `ForksStates`."""


def fork_states_in_groups(model: Any) -> None:
    """Gives a model's recurrent layers the groups; a model without such layers stays as it is.

    Args:
        model: A loaded model.
    """
    for module in model.model.language_model.modules():
        if type(module) in CLASSES:
            become(module, CLASSES[type(module)])
