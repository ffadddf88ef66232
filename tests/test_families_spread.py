"""A model that accelerate has spread over devices still scores batches by our forward, and answers as before."""

import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from transformers import Qwen3VLForConditionalGeneration

from tests.opened import Opened


def test_hooks_of_accelerate_keep_our_forward(tmp_path, monkeypatch):
    """What `device_map` does on several GPUs, done by hand: a hook on the whole model before it becomes one of ours."""
    opened = Opened(tmp_path / "model", "qwen3_vl")
    rows = opened.rows(num_rows=2, clip=opened.clip(num_frames=4), seed=0)
    batch = opened.encoder.collate([opened.encoder.join(rows)])
    plain = opened.load()
    expected = opened.runtime.loss(plain, batch, num_items=1).loss
    load = Qwen3VLForConditionalGeneration.from_pretrained

    def spread(*args, **kwargs):
        model, info = load(*args, **kwargs)
        return add_hook_to_module(model, AlignDevicesHook(io_same_device=True)), info

    monkeypatch.setattr(Qwen3VLForConditionalGeneration, "from_pretrained", spread)
    hooked = opened.load()
    assert "_old_forward" in vars(hooked)
    assert torch.equal(opened.runtime.loss(hooked, batch, num_items=1).loss, expected)
    prompts = opened.rows(num_rows=2, clip=opened.clip(num_frames=4), seed=0, with_response=False)
    answers = [opened.runtime.generate(model, opened.encoder, prompts, max_new_tokens=4) for model in (plain, hooked)]
    assert answers[0] == answers[1]
