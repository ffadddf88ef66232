"""The LoRA contract: only adapters get gradients, the base stays bit-equal, a fresh adapter changes nothing."""

import peft
import pytest
import torch

from cvft.families.cogvlm2_video.network.load import load_model
from cvft.families.cogvlm2_video.tensors import PARTS
from cvft.families.parts import target_regex
from cvft.families.table import FAMILIES
from tests.test_network_invariants import forward, make_rows
from tests.tiny import TINY, tiny_processor


@pytest.mark.parametrize("targets", ["qkv", "all-linear"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_only_adapters_learn_and_the_base_stays(targets, checkpointing):
    torch.manual_seed(0)
    batch = tiny_processor().collate(make_rows(tiny_processor()))
    base = load_model(TINY, dtype=torch.float32)
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    with torch.no_grad():
        untouched = forward(base, batch).logits
    config = peft.LoraConfig(target_modules=target_regex(PARTS, targets), r=4, lora_alpha=8)
    model = peft.get_peft_model(base, config).train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    with torch.no_grad():
        assert torch.equal(forward(model, batch).logits, untouched)  # B starts at zero

    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(3):
        loss = forward(model, batch).loss
        optimizer.zero_grad()
        loss.backward()
        with_gradient = {name for name, p in model.named_parameters() if p.grad is not None}
        assert with_gradient == {name for name, _ in model.named_parameters() if ".lora_" in name}
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    after = {
        name.removeprefix("base_model.model.").replace(".base_layer", ""): tensor
        for name, tensor in model.state_dict().items()
        if ".lora_" not in name
    }
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_only_the_projector_of_cogvlm2_learns_from_cached_features():
    before = {family.name for family in FAMILIES if not family.parts.caches_projector and family.capabilities.features}
    assert before == {"cogvlm2_video"}
