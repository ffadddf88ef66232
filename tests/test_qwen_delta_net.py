"""A recurrent layer of Qwen3.5 alone: groups, of lengths below and above the convolution's reach and the kernel's chunks."""

import pytest
import torch
from torch.nn import functional as F
from transformers import Qwen3_5MoeTextConfig, Qwen3_5TextConfig
from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5GatedDeltaNet
from transformers.models.qwen3_5_moe.modeling_qwen3_5_moe import Qwen3_5MoeGatedDeltaNet

from cvft.families.network.places import Places
from cvft.families.qwen_vl.network.delta_net import CLASSES
from tests.kept_wide import KeptWide

SIZES = {
    "hidden_size": 24,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 6,
    "layer_types": ["linear_attention"],
    "num_hidden_layers": 1,
}
GROUPS = [(1, [3, 1, 70]), (2, [5]), (3, [1, 1, 2]), (131, [66, 4, 64]), (64, [9]), (40, [])]
"""Tokens of prefixes and questions. The convolution reaches 3 tokens back; the kernel's chunks have 64."""
PADDING = 5


@pytest.fixture(params=[(Qwen3_5GatedDeltaNet, Qwen3_5TextConfig), (Qwen3_5MoeGatedDeltaNet, Qwen3_5MoeTextConfig)])
def layer(request):
    """A layer with weights that are seen: it forgets half in 10 to 200 tokens."""
    base, config = request.param
    torch.manual_seed(0)
    layer = base(config(**SIZES), 0).double()
    with torch.no_grad():
        layer.A_log.copy_(torch.empty_like(layer.A_log).uniform_(0.005, 0.1).log())
        layer.conv1d.weight.normal_()
    return layer


def make_batch():
    """Random states (B, L, H) with something in the padding too."""
    length = max(prefix + sum(questions) for prefix, questions in GROUPS) + PADDING
    return torch.randn(len(GROUPS), length, SIZES["hidden_size"], dtype=torch.float64)


def rows_of(sequence, lengths):
    """The rows of a group (L, H), each with the whole prefix, and where its own tokens begin in it."""
    prefix, questions = lengths
    if not questions:
        yield sequence[:prefix], 0
    start = prefix
    for number, count in enumerate(questions):
        yield torch.cat((sequence[:prefix], sequence[start : start + count])), prefix if number else 0
        start += count


def differentiate(layer, batch, outputs, weights):
    (outputs * weights).sum().backward()
    gradients = [batch.grad, *(parameter.grad for parameter in layer.parameters())]
    layer.zero_grad()
    return gradients


def test_groups_are_their_rows(layer):
    batch = make_batch().requires_grad_()
    weights = torch.randn_like(batch)
    for number, (prefix, questions) in enumerate(GROUPS):
        weights[number, prefix + sum(questions) :] = 0
    with KeptWide():
        apart = torch.stack(
            [
                F.pad(torch.cat(kept), (0, 0, 0, batch.shape[1] - sum(map(len, kept))))
                for sequence, lengths in zip(batch, GROUPS, strict=True)
                for kept in [[layer(row[None])[0, start:] for row, start in rows_of(sequence, lengths)]]
            ]
        )
        expected = differentiate(layer, batch, apart, weights)
        batch.grad = None
        layer.__class__ = CLASSES[type(layer)]
        together = layer(batch, group_lengths=GROUPS)
        gradients = differentiate(layer, batch, together, weights)
    for (prefix, questions), ours, theirs in zip(GROUPS, together, apart, strict=True):
        count = prefix + sum(questions)
        assert torch.allclose(ours[:count], theirs[:count], rtol=0, atol=1e-13)
    for ours, theirs in zip(gradients, expected, strict=True):
        assert (ours - theirs).norm() <= 1e-12 * theirs.norm()


def test_padding_changes_no_bit(layer):
    layer.__class__ = CLASSES[type(layer)]
    batch = make_batch()
    changed = batch.clone()
    for number, (prefix, questions) in enumerate(GROUPS):
        changed[number, prefix + sum(questions) :] = 1e3
    ours, theirs = layer(batch, group_lengths=GROUPS), layer(changed, group_lengths=GROUPS)
    for number, (prefix, questions) in enumerate(GROUPS):
        count = prefix + sum(questions)
        assert torch.equal(ours[number, :count], theirs[number, :count])


def test_rows_apart_are_the_bits_of_transformers_own(layer):
    batch = make_batch()
    expected = layer(batch)
    layer.__class__ = CLASSES[type(layer)]
    assert torch.equal(layer(batch, group_lengths=[(batch.shape[1], [])] * len(batch)), expected)
    assert torch.equal(layer(batch), expected)


def test_places_lead_there_and_back():
    places = Places.of([(2, [1, 3]), (4, [])], length=7, device=torch.device("cpu"))
    assert places.behind.tolist() == [[False, False, True, True], [False] * 4]
    assert places.owners.tolist() == [0, 0]
    assert places.questions.tolist() == [[2, 3, 4], [3, 4, 5]]
    assert places.outputs.tolist() == [[0, 1, 8, 11, 12, 13, 0], [4, 5, 6, 7, 0, 0, 0]]
