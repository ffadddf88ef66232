"""Where the tokens of groups lie, for layers that compute prefixes and questions in two calls.

group_lengths -> prefixes (B, P) and questions (Q, m) of a batch (B, L), and the way back to (B, L)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cvft.families.network.attention import GroupLengths


@dataclass(frozen=True)
class Places:
    """Where the tokens of a batch's prefixes and questions lie.

    Args:
        num_prefix: (B,) tokens of each prefix.
        behind: (B, P) whether a place lies behind its sequence's prefix, whose length is below P.
        owners: (Q,) the sequence of each question.
        questions: (Q, m) tokens of each question, counted in B·L; what pads a shorter one is whatever follows it.
        outputs: (B, L) what holds the output of each token, counted in B·P and then Q·m; 0 for padding.
    """

    num_prefix: Tensor
    behind: Tensor
    owners: Tensor
    questions: Tensor
    outputs: Tensor

    @classmethod
    def of(cls, group_lengths: GroupLengths, *, length: int, device: torch.device) -> Places:
        """Lays out a batch.

        Args:
            group_lengths: Tokens of each sequence's prefix and questions; at least one sequence has questions.
            length: L, tokens of a sequence with its padding.
            device: Where the tensors shall be.
        """
        num_prefix = torch.tensor([number for number, _ in group_lengths])
        longest = int(num_prefix.max())
        most = max(max(lengths, default=0) for _, lengths in group_lengths)
        outputs = torch.zeros(len(group_lengths), length, dtype=torch.long)
        owners: list[int] = []
        starts: list[int] = []
        for sequence, (start, lengths) in enumerate(group_lengths):
            outputs[sequence, :start] = sequence * longest + torch.arange(start)
            for num_tokens in lengths:
                first = len(group_lengths) * longest + len(owners) * most
                outputs[sequence, start : start + num_tokens] = first + torch.arange(num_tokens)
                owners.append(sequence)
                starts.append(sequence * length + start)
                start += num_tokens
        questions = (torch.tensor(starts)[:, None] + torch.arange(most)).clamp(max=outputs.numel() - 1)
        behind = torch.arange(longest) >= num_prefix[:, None]
        tensors = (num_prefix, behind, torch.tensor(owners), questions, outputs)
        return cls(*(tensor.to(device) for tensor in tensors))
