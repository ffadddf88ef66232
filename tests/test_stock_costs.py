"""What plans say of arithmetic and memory equals what torch counts on real models of the same form, of every stock family."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from cvft.families.costs import Batch, ClipShape, GroupShape, causal_pairs
from cvft.families.decoder_costs import Attention, attended_pairs
from cvft.families.parts import count_adapter
from cvft.families.table import FAMILIES
from tests.stock_batches import STOCK, Stock
from tests.test_families_memory import KeptBytes, autocast_of_gpus, live_bytes

ONE = [((3, 8, 8), [20])]
TWO = [((3, 8, 8), [20, 12, 9]), ((2, 4, 12), [7, 7])]
"""Clips (grids, rows, columns of patches), and the lengths of their questions."""

DENSE = ("qwen3_vl", "qwen3_5")
"""All of them but one layer of a block is in their mixtures of experts too."""

KINDS = [pytest.param(kind, marks=pytest.mark.long) if kind in DENSE else kind for kind in STOCK if kind != "internvl3"]
"""InternVL3 has the decoder of Qwen2.5-VL and the tower of InternVL3.5."""

TOWER, PROJECTOR, WHOLE = {"train_vision_tower": True}, {"train_projector": True}, {"train_projector": "full"}

NAMED = {
    checkpoint.name: Stock(family, checkpoint.config, None)
    for family in FAMILIES
    for checkpoint in family.checkpoints
    if family.parts.caches_projector and checkpoint.config
}
"""The published checkpoints."""


def prepared(stock, targets, *, dtype=torch.float32, recompute=False, **parts):
    model = stock.adapt(stock.load(dtype=dtype), targets=targets, **parts)
    if recompute:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    return model


def counting_flops():
    """torch's counter. Formulas are lent: the fused attention's, told that heads share keys, and those of triangular systems and
    of products by groups."""

    def spread(query, key):
        return (key[0], query[1], *key[2:])

    def forward(query, key, value, *args, out_shape=None, **kwargs):
        return sdpa_flop_count(query, spread(query, key), spread(query, value))

    def backward(gradient, query, key, value, *args, out_shape=None, **kwargs):
        return sdpa_backward_flop_count(gradient, query, spread(query, key), spread(query, value))

    def solve(system, sides, *args, out_shape=None, **kwargs):
        return torch.Size(sides).numel() * system[-1]

    def grouped(rows, weights, *args, out_shape=None, **kwargs):
        return 2 * rows[0] * weights[1] * weights[2]

    aten = torch.ops.aten
    lent = {aten._scaled_dot_product_flash_attention_for_cpu: forward}
    lent[aten._scaled_dot_product_flash_attention_for_cpu_backward] = backward
    lent |= {aten.linalg_solve_triangular: solve, aten._grouped_mm: grouped}
    return FlopCounterMode(display=False, custom_mapping=lent)


def without_causality(stock, fed, training) -> int:
    """What torch's counter adds: it takes causal attention for all pairs of a sequence."""
    lengths = [each.num_tokens if len(each.question_tokens) == 1 else each.num_prefix_tokens for each in fed.groups]
    hidden = sum(length**2 - causal_pairs(length) for length in lengths)
    per_pair = 4 * (2 if training.recompute else 1) + 10
    blocks = [(block.mixer, count) for block, count in stock.costs.decoder.blocks]
    return per_pair * hidden * sum(mixer.query_width * num for mixer, num in blocks if isinstance(mixer, Attention))


@pytest.mark.parametrize(
    ("targets", "recompute", "groups", "parts"),
    [
        ("all-linear", False, ONE, {}),
        ("all-linear", True, TWO, {}),
        ("qkv", False, ONE, TOWER),
        ("qkv", True, ONE, TOWER | PROJECTOR),
        ("qkv", False, ONE, WHOLE),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", KINDS)
def test_flops_and_saved_activations_equal_those_of_a_real_step(kind, targets, recompute, groups, parts):
    stock = STOCK[kind]
    training, fed = stock.training(targets, recompute=recompute, **parts), stock.feed(groups)
    model = prepared(stock, targets, recompute=recompute, **parts)
    kept = KeptBytes(model, vocabulary=stock.vocab_size)
    with counting_flops() as counter:
        with saved_tensors_hooks(kept.pack, lambda tensor: tensor):
            loss = model(**stock.batch(groups)).loss
        loss.backward()
    flops = stock.costs.training_flops(fed, training).total + without_causality(stock, fed, training)
    assert flops == pytest.approx(counter.get_total_flops(), rel=0.02)
    if not recompute:
        # from above: the first block keeps nothing before its first adapter
        assert 0.995 * kept.total <= stock.costs.saved_bytes(fed, training) <= 1.05 * kept.total


@pytest.mark.parametrize(
    ("targets", "groups", "parts"),
    [("all-linear", TWO, {}), ("qkv", ONE, PROJECTOR), ("qkv", ONE, TOWER | PROJECTOR), ("qkv", ONE, WHOLE)],
    ids=str,
)
@pytest.mark.parametrize("kind", KINDS)
def test_saved_activations_in_bf16_equal_those_of_a_real_forward_pass(kind, targets, groups, parts, monkeypatch):
    stock, dtype = STOCK[kind], torch.bfloat16
    model = prepared(stock, targets, dtype=dtype, **parts)
    kept = KeptBytes(model, vocabulary=stock.vocab_size)
    with saved_tensors_hooks(kept.pack, lambda tensor: tensor), autocast_of_gpus(monkeypatch):
        model(**stock.batch(groups, dtype=dtype))
    counted = stock.costs.saved_bytes(stock.feed(groups), stock.training(targets, dtype=dtype, **parts))
    assert 0.995 * kept.total <= counted <= 1.05 * kept.total


@pytest.mark.parametrize("kind", KINDS)
def test_the_peak_of_a_real_step_is_met_from_above(kind):
    """Without the loss, whose own peak comes at another moment, and with cached features; blocks are recomputed."""
    stock = replace(STOCK[kind], config=json.loads(json.dumps(STOCK[kind].config)))
    stock.config["text_config"]["num_hidden_layers"] = 4
    groups = [((4, 8, 8), [20] * 6)]
    model = prepared(stock, "all-linear", recompute=True)
    batch = stock.with_features(model, stock.batch(groups))
    scoring = model.get_base_model()
    with live_bytes(model) as live:
        live.own.add(batch["vision_features"].untyped_storage().data_ptr())
        states = scoring.model(
            input_ids=batch["input_ids"],
            position_ids=scoring.order_positions(batch["position_ids"]),
            use_cache=False,
            mm_encoder_outputs=scoring.features_as_outputs(batch["vision_features"]),
            attention_mask=torch.empty((1, 1, 1, 1)),
            group_lengths=batch["group_lengths"],
        ).last_hidden_state
        states[:, 0].sum().backward()
    fed = stock.feed(groups, with_tower=False)
    memory = stock.costs.peak_memory(fed, stock.training("all-linear", recompute=True))
    assert live.peak <= memory.saved + memory.layer <= live.peak * 1.12


@pytest.mark.parametrize("kind", KINDS)
def test_a_frozen_tower_holds_what_is_counted_and_costs_what_is_saved(kind):
    stock = STOCK[kind]
    batch, training, fed = stock.batch(TWO), stock.training("qkv"), stock.feed(TWO)
    model = prepared(stock, "qkv")
    with torch.no_grad(), live_bytes(model) as live, counting_flops() as counter:
        live.own |= {tensor.untyped_storage().data_ptr() for tensor in batch.values() if torch.is_tensor(tensor)}
        stock.encode_clips(model, batch)
    built = stock.costs.build_flops(fed.clips)
    assert built.total == pytest.approx(counter.get_total_flops(), rel=0.02)
    cached = stock.costs.training_flops(stock.feed(TWO, with_tower=False), training)
    assert cached.tower == cached.projector == 0
    assert built.total == stock.costs.training_flops(fed, training).total - cached.total
    assert stock.costs.peak_memory(fed, training).vision == pytest.approx(live.peak, rel=0.03)


# --- published sizes


def test_full_size_flops_are_near_the_rule_of_thumb():
    """Two FLOPs per weight and token forward, two backward; source of the weights: the published numbers of parameters."""
    stock = NAMED["Qwen3-VL-8B-Instruct"]
    fed = Batch(1, 4096, 0, 60, groups=(GroupShape(4000, (96,)),))
    flops = stock.costs.training_flops(fed, stock.training("qkv"))
    assert flops.language == pytest.approx(
        4 * 6.946e9 * 4096, rel=0.001
    )  # 8.767 without embedding, output layer and tower
    assert flops.attention == 14 * 4096 * 36 * causal_pairs(4096)
    assert flops.output_layer == 4 * 151936 * 4096 * 60


def test_a_token_computes_with_the_experts_that_it_is_sent_to():
    """Source: the published name, 30B-A3B: 3.3 billion weights are active, 0.6 of them in embedding and output layer."""
    stock = NAMED["Qwen3-VL-30B-A3B-Instruct"]
    fed = Batch(1, 4096, 0, 60, groups=(GroupShape(4000, (96,)),))
    flops = stock.costs.training_flops(fed, stock.training("qkv"))
    assert flops.language == pytest.approx(4 * (3.3e9 - 0.6e9) * 4096, rel=0.03)


def test_groups_compute_the_clip_once():
    apart, together = GroupShape(4000, (100,)), GroupShape(4000, (100, 60))
    assert attended_pairs(apart) == causal_pairs(4100)
    assert attended_pairs(together) == causal_pairs(4000) + 2 * 100 * 4100


def test_features_keep_one_vector_per_level():
    """Source: 4 levels of 4096 values in bf16 are 32,768 bytes per token, and 134 MB for a clip of 4,096 tokens."""
    clip, per_token = ClipShape(32, 4096), {"Qwen3-VL-8B-Instruct": 32_768, "Qwen2.5-VL-7B-Instruct": 7_168}
    per_token |= {"Qwen3.5-9B": 8_192, "GLM-4.1V-9B-Base": 8_192, "InternVL3_5-8B-HF": 8_192}
    for name, num_bytes in per_token.items():
        stock = NAMED[name]
        counted = stock.family.feature_bytes(stock.config, [clip, clip], dtype_bytes=2)
        assert counted == 2 * 4096 * num_bytes, name


@pytest.mark.parametrize("name", NAMED)
def test_full_size_weights_are_those_of_the_files(name):
    stock = NAMED[name]
    training = replace(stock.training("all-linear", recompute=True), dtype_bytes=2)
    fed = Batch(1, 2148, 0, 60, 32, 32, groups=(GroupShape(2048, (100,), (ClipShape(32, 2016),)),))
    memory = stock.costs.peak_memory(fed, training)
    shapes = stock.shapes
    assert memory.weights == 2 * sum(torch.Size(shape).numel() for shape in shapes.values())
    cached = stock.costs.peak_memory(replace(fed, num_tower_frames=0), replace(training, has_tower=False))
    of_vision = sum(torch.Size(shape).numel() for each, shape in shapes.items() if each.startswith(stock.parts.cached))
    assert memory.weights - cached.weights == 2 * of_vision
    assert cached.vision == 0 < memory.vision
    assert memory.adapter == 4 * count_adapter(stock.parts, shapes, targets="all-linear", rank=4).total


def test_recomputation_keeps_little():
    stock = NAMED["Qwen3-VL-8B-Instruct"]
    fed = Batch(1, 4196, 0, 60, groups=(GroupShape(4096, (100,), (ClipShape(32, 4000),)),))
    kept, again = (stock.costs.saved_bytes(fed, stock.training("all-linear", recompute=each)) for each in (False, True))
    assert again < kept / 15


def test_counting_loads_no_torch():
    code = (
        "import sys\n"
        "import cvft.families.glm4v.costs, cvft.families.internvl.costs, cvft.families.qwen_vl.costs\n"
        "print([name for name in ('torch', 'numpy', 'transformers') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
