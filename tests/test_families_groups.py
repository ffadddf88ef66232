"""Models of transformers' own classes as cvft trains them: groups of rows, cached features, answers over a shared prefix."""

import copy
import re
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn import functional as F

from cvft.clips.source import ClipInputs
from cvft.families.family import IGNORED_LABEL
from cvft.families.network.grouping import CLIP_KEYS
from cvft.families.qwen_vl.network.delta_net import CLASSES, ForksStates, fork_states_in_groups
from tests.kept_wide import KeptWide
from tests.opened import Opened

LARGEST_NLL_ERROR = {torch.float64: 1e-12, torch.float32: 1e-5}
LARGEST_GRADIENT_ERROR = {torch.float64: 1e-10, torch.float32: 1e-5}
"""Of a token's negative log-likelihood, relative where it is above 1; of all adapter gradients, relative to their norm."""

SMALLEST_FAULT = 1e-3
"""What a wrong group must differ by."""

KINDS = ("qwen3_vl", "qwen2_5_vl", "qwen3_5", "qwen3_vl_moe", "qwen3_5_moe", "internvl3_5", "glm4v")
RECURRENT = ("qwen3_5", "qwen3_5_moe")
NARROW_TOWERS = ("glm4v",)
"""Towers that transformers runs in fp32 at most: they look up their positions so. They are frozen here, and the same for both."""


@pytest.fixture(scope="module", params=KINDS)
def opened(request, tmp_path_factory):
    return Opened(tmp_path_factory.mktemp("tiny") / request.param, request.param)


@pytest.fixture(scope="module", params=[torch.float64, torch.float32], ids=["fp64", "fp32"])
def adapted(request, opened):
    """The model with a random adapter on all linear layers of its decoder."""
    torch.manual_seed(0)
    model = opened.load()
    names = re.compile(rf"{opened.family.parts.block}\.({'|'.join(opened.family.parts.linear)})")
    targets = [name for name, _ in model.named_modules() if names.fullmatch(name)]
    config = LoraConfig(r=4, lora_alpha=4, target_modules=targets, init_lora_weights=False)
    model = model.to(request.param)
    if opened.family.name in NARROW_TOWERS:
        model.model.visual.float()
    return get_peft_model(model, config, autocast_adapter_dtype=False).train()


def widen(batch, dtype):
    return {
        key: value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value
        for key, value in batch.items()
    }


def token_nlls(model, batch):
    """The negative log-likelihood of each label token, row by row, from the logits that the loss is made of."""
    logits = []
    hook = model.base_model.model.lm_head.register_forward_hook(lambda module, args, output: logits.append(output))
    loss = model(**widen(batch, model.dtype), label_logits_only=True, num_items_in_batch=1).loss
    hook.remove()
    targets = batch["labels"][:, 1:][batch["labels"][:, 1:] != IGNORED_LABEL]
    nlls = F.cross_entropy(torch.cat(logits), targets, reduction="none")
    assert torch.allclose(nlls.sum(), loss)
    return nlls


def losses_and_gradients(model, batches):
    model.zero_grad()
    with KeptWide():
        nlls = [token_nlls(model, batch) for batch in batches]
        num_tokens = sum(len(values) for values in nlls)
        for values in nlls:
            (values.sum() / num_tokens).backward()
    gradients = [parameter.grad.flatten() for parameter in model.parameters() if parameter.requires_grad]
    return torch.cat(nlls).detach(), torch.cat(gradients)


def compare(model, encoder, groups, *, change=lambda batch: batch):
    """Errors of token losses and of gradients: groups in one batch against their rows one by one."""
    apart = [encoder.collate([row]) for rows in groups for row in rows]
    together = change(encoder.collate([encoder.join(rows) for rows in groups]))
    (nlls, gradients), (grouped, grouped_gradients) = (
        losses_and_gradients(model, apart),
        losses_and_gradients(model, [together]),
    )
    return (
        float(((grouped - nlls).abs() / nlls.abs().clamp(min=1)).max()),
        float((grouped_gradients - gradients).norm() / gradients.norm()),
    )


def groups_of(opened):
    """Clips of different length and size, groups of 1 to 24 rows, rows of two clips where they may be, rows without a clip."""
    clips = [
        opened.clip(num_frames=num_frames, height=height, width=width, seed=num_frames)
        for num_frames, height, width in ((6, 64, 96), (1, 96, 64), (5, 112, 112))
    ]
    sizes = (24, 1, 3)
    groups = [opened.rows(num_rows=count, clip=clip, seed=count) for count, clip in zip(sizes, clips, strict=True)]
    if opened.takes_several:
        groups.append(opened.rows(num_rows=4, clip=(clips[2], clips[0]), seed=11))
    return [*groups, opened.rows(num_rows=1, clip=None, seed=9)]


def test_groups_equal_their_rows(adapted, opened):
    nll_error, gradient_error = compare(adapted, opened.encoder, groups_of(opened))
    assert nll_error <= LARGEST_NLL_ERROR[adapted.dtype]
    assert gradient_error <= LARGEST_GRADIENT_ERROR[adapted.dtype]


def test_the_order_of_questions_changes_nothing(adapted, opened):
    (rows, *_) = groups_of(opened)
    nll_error, gradient_error = compare(adapted, opened.encoder, [rows[:5][::-1]])
    assert nll_error <= LARGEST_NLL_ERROR[adapted.dtype]
    assert gradient_error <= LARGEST_GRADIENT_ERROR[adapted.dtype]


def test_recomputed_activations_change_nothing(adapted, opened):
    how = {"use_reentrant": False, "context_fn": lambda: (nullcontext(), KeptWide())}  # a backward pass leaves the mode
    adapted.gradient_checkpointing_enable(gradient_checkpointing_kwargs=how)
    try:
        nll_error, gradient_error = compare(adapted, opened.encoder, groups_of(opened)[1:])
    finally:
        adapted.gradient_checkpointing_disable()
    assert nll_error <= LARGEST_NLL_ERROR[adapted.dtype]
    assert gradient_error <= LARGEST_GRADIENT_ERROR[adapted.dtype]


def positions_go_on(batch):
    positions, segments = batch["position_ids"].clone(), batch["segment_ids"]
    for sequence in range(len(positions)):
        second = int((segments[sequence] == 1).sum() + (segments[sequence] == 0).sum())
        rest = positions[sequence, second:]
        if len(rest):
            positions[sequence, second:] = rest + (positions[sequence, second - 1] + 1 - rest[0])
    return {**batch, "position_ids": positions}


def everything_before_is_seen(batch):
    lengths = [(num_prefix + sum(questions), []) for num_prefix, questions in batch["group_lengths"]]
    return {**batch, "group_lengths": lengths}


@pytest.mark.parametrize("change", [positions_go_on, everything_before_is_seen])
def test_a_wrong_group_is_found_out(adapted, opened, change):
    rows = opened.rows(num_rows=4, clip=opened.clip(num_frames=4), seed=1)
    nll_error, gradient_error = compare(adapted, opened.encoder, [rows], change=change)
    assert nll_error > SMALLEST_FAULT
    assert gradient_error > SMALLEST_FAULT


def test_a_mask_hides_no_question_from_a_recurrence(adapted, opened):
    forking = [module for module in adapted.modules() if isinstance(module, ForksStates)]
    assert bool(forking) == (opened.family.name in RECURRENT)
    rows = opened.rows(num_rows=4, clip=opened.clip(num_frames=4), seed=1)
    for module in forking:
        module.__class__ = {ours: stock for stock, ours in CLASSES.items()}[type(module)]
    nll_error, gradient_error = compare(adapted, opened.encoder, [rows])
    fork_states_in_groups(adapted.base_model.model)
    assert (nll_error > SMALLEST_FAULT) == (gradient_error > SMALLEST_FAULT) == bool(forking)


def test_gradients_come_in_one_order_with_and_without_groups(adapted, opened):
    """ZeRO adds up what ranks have in the order in which it comes, and another rank may have no group, or no clip."""
    rows = opened.rows(num_rows=3, clip=opened.clip(num_frames=4), seed=2)
    (bare,) = opened.rows(num_rows=1, clip=None, seed=5)
    orders = []
    for sequence in (opened.encoder.join(rows), rows[0], bare):
        order: list[str] = []
        trained = [(name, weight) for name, weight in adapted.named_parameters() if weight.requires_grad]
        hooks = [
            weight.register_post_accumulate_grad_hook(lambda _, name=name, order=order: order.append(name))
            for name, weight in trained
        ]
        batch = widen(opened.encoder.collate([sequence]), adapted.dtype)
        opened.runtime.loss(adapted, batch, num_items=1).loss.backward()
        for hook in hooks:
            hook.remove()
        orders.append(order)
    adapted.zero_grad()
    assert len(orders[0]) == len(trained)
    assert orders[0] == orders[1] == orders[2]


def test_eager_attention_takes_groups_too(opened):
    rows = opened.rows(num_rows=3, clip=opened.clip(num_frames=4), seed=2)
    batch = opened.encoder.collate([opened.encoder.join(rows), rows[1]])
    losses = [
        opened.runtime.loss(opened.load(attention=name), batch, num_items=1).loss.item() for name in ("sdpa", "eager")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_all_logits_give_the_same_loss(opened):
    model = opened.load()
    batch = opened.encoder.collate(opened.rows(num_rows=2, clip=opened.clip(num_frames=3), seed=3))
    scored = [opened.runtime.loss(model, batch, num_items=1, label_logits_only=only) for only in (True, False)]
    assert scored[0].loss.item() == pytest.approx(scored[1].loss.item(), rel=1e-6)
    assert scored[0].num_right == scored[1].num_right


def test_cached_features_are_the_bits_of_live_ones(opened):
    model, tower = opened.load(), opened.runtime.tower(opened.folder, dtype="fp32", device="cpu")
    clips = [opened.clip(num_frames=count, height=64 + 32 * count, seed=count) for count in (2, 5)]
    cached = [ClipInputs({"vision_features": tower(clip.tensors)}, clip.view) for clip in clips]
    without_tower = opened.load(with_tower=False)
    losses = []
    for chosen, net in ((clips, model), (cached, model), (cached, without_tower)):
        shown = [*chosen, (chosen[1], chosen[0], chosen[1])] if opened.takes_several else chosen
        groups = [opened.encoder.join(opened.rows(num_rows=3, clip=clip, seed=4)) for clip in shown]
        losses.append(opened.runtime.loss(net, opened.encoder.collate(groups), num_items=1).loss)
    assert torch.equal(losses[0], losses[1])
    assert torch.equal(losses[0], losses[2])


def test_a_batch_without_a_clip_gives_the_tower_a_gradient_of_zero(opened):
    model = opened.load(runs_tower_always=True)
    plain = opened.load()
    batch = opened.encoder.collate(opened.rows(num_rows=2, clip=None, seed=5))
    loss = opened.runtime.loss(model, batch, num_items=1).loss
    loss.backward()
    assert torch.equal(loss, opened.runtime.loss(plain, batch, num_items=1).loss)
    vision = model.model.visual if hasattr(model.model, "visual") else model.model.vision_tower
    gradients = [parameter.grad for parameter in vision.parameters()]
    assert all(gradient is not None and not gradient.any() for gradient in gradients)


@pytest.fixture(scope="module", params=(*KINDS, "internvl3"))
def answering(request, tmp_path_factory):
    opened = Opened(tmp_path_factory.mktemp("tiny") / request.param, request.param)
    return opened, opened.load()


def prompts_of(opened):
    clips = [opened.clip(num_frames=count, seed=count) for count in (2, 5)]
    if opened.takes_several:
        clips.append((clips[1], opened.clip(num_frames=3, height=112, width=80, seed=3)))
    prompts = [prompt for clip in clips for prompt in opened.rows(num_rows=3, clip=clip, seed=6, with_response=False)]
    return prompts, [number for number in range(len(clips)) for _ in range(3)]


def test_answers_do_not_depend_on_what_is_beside_them(answering):
    opened, model = answering
    prompts, clips = prompts_of(opened)
    text_only = opened.rows(num_rows=1, clip=None, seed=7, with_response=False)
    together = opened.runtime.generate(
        model, opened.encoder, [*prompts, *text_only], max_new_tokens=6, clips=[*clips, 2]
    )
    alone = [
        opened.runtime.generate(model, opened.encoder, [prompt], max_new_tokens=6)[0]
        for prompt in [*prompts, *text_only]
    ]
    assert together == alone
    assert len({answer.text for answer in together}) > 3


def test_answers_are_the_likeliest_tokens_of_the_whole_sequence(answering):
    """Each new token, against one pass of transformers' own class over everything before it, positions computed anew."""
    opened, model = answering
    prompts, _ = prompts_of(opened)
    for prompt in prompts[1::3]:
        (answer,) = opened.runtime.generate(model, opened.encoder, [prompt], max_new_tokens=5)
        ids, expected = prompt["input_ids"].tolist(), []
        positions = prompt["position_ids"]
        for _ in range(5):
            batch = {
                "input_ids": torch.tensor([ids]),
                "attention_mask": torch.ones(1, len(ids), dtype=torch.long),
                "position_ids": positions[None],
                **{key: prompt[key] for key in CLIP_KEYS if key in prompt},
            }
            batch = opened.encoder.model_inputs(batch)
            with torch.inference_mode():
                token = int(model(**batch, use_cache=False).logits[0, -1].argmax())
            expected.append(token)
            ids, positions = [*ids, token], torch.cat([positions, positions[-1:] + 1])
        text = opened.encoder.tokenizer.decode(expected, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert answer.text == text.strip()


def test_a_whole_model_in_fp32_is_transformers_own(answering):
    """The logits of a row's labels equal those of transformers' class, opened by itself, with the same positions."""
    import transformers

    opened, model = answering
    stock = transformers.AutoModelForImageTextToText.from_pretrained(opened.folder.path, dtype=torch.float32).eval()
    (row,) = opened.rows(num_rows=1, clip=opened.clip(num_frames=4), seed=8)
    ours = opened.runtime.label_logits(model, opened.encoder.collate([row]))
    with torch.inference_mode():
        theirs = stock(**opened.encoder.model_inputs(opened.encoder.collate([row]))).logits[0]
    labels = torch.nonzero(row["labels"] != IGNORED_LABEL).flatten() - 1
    assert torch.allclose(ours, theirs[labels], atol=2e-5)


def test_budgets_decide_how_many_tokens_a_clip_has(tmp_path):
    opened = Opened(tmp_path / "model", "qwen3_vl")

    def tokens(num_frames, **changes):
        fields = {**opened.how.fields, **changes}
        encoder = opened.runtime.encoder(opened.folder, replace(opened.how, fields=fields))
        changed = copy.copy(opened)
        changed.encoder = encoder
        return int(changed.clip(num_frames=num_frames, height=256, width=256).tensors["video_grid_thw"].prod()) // 4

    assert tokens(4) == 2 * 16
    assert tokens(4, max_frame_tokens=9) == 2 * 9
    assert tokens(4, min_frame_tokens=100, max_frame_tokens=144) == 2 * 100
    assert tokens(40, max_clip_tokens=80) == 20 * 4
    assert tokens(40, max_clip_tokens=8) == 20 * 4, "at least min_frame_tokens"
