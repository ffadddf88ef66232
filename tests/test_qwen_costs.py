"""What plans say of Qwen-VL's arithmetic and memory equals what torch counts on real models of the same form."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from cvft.families.costs import Batch, ClipShape, GroupShape, causal_pairs
from cvft.families.parts import adapted_names, count_adapter
from cvft.families.qwen_vl.costs import Costs, costs_of
from cvft.families.qwen_vl.flops import attended_pairs, feature_bytes, training_flops
from cvft.families.qwen_vl.memory import peak_memory, saved_bytes
from cvft.families.qwen_vl.parts import PARTS
from cvft.families.qwen_vl.sizes import FULL_ATTENTION, Sizes
from cvft.families.qwen_vl.tensors import loaded_shapes
from tests.qwen_batches import KINDS, adapt, feed_of, larger, load, make_batch, training_of, with_features
from tests.qwen_configs import PUBLISHED
from tests.test_families_memory import live_bytes

ONE = [((3, 8, 8), [20])]
TWO = [((3, 8, 8), [20, 12, 9]), ((2, 4, 12), [7, 7])]
"""Clips (grids, rows, columns of patches), and the lengths of their questions."""

MODELS = {kind: larger(kind) for kind in KINDS}
PARTS_TRAINED = [
    {},
    {"train_projector": True},
    {"train_vision_tower": True},
    {"train_vision_tower": True, "train_projector": True},
    {"train_projector": "full"},
]


def prepared(kind, targets, *, dtype=torch.float32, recompute=False, **parts):
    model = adapt(load(MODELS[kind], dtype=dtype), MODELS[kind], targets=targets, **parts)
    if recompute:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    return model


# --- FLOPs


def counted_by_torch(model, batch) -> int:
    """FLOPs of forward and backward pass; formulas are lent: the fused attention's, told that heads share keys, and that of
    triangular systems."""

    def spread(query, key):
        return (key[0], query[1], *key[2:])

    def forward(query, key, value, *args, out_shape=None, **kwargs):
        return sdpa_flop_count(query, spread(query, key), spread(query, value))

    def backward(gradient, query, key, value, *args, out_shape=None, **kwargs):
        return sdpa_backward_flop_count(gradient, query, spread(query, key), spread(query, value))

    def solve(system, sides, *args, out_shape=None, **kwargs):
        return torch.Size(sides).numel() * system[-1]

    on_cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    lent = {on_cpu: forward, torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: backward}
    lent[torch.ops.aten.linalg_solve_triangular] = solve
    with FlopCounterMode(display=False, custom_mapping=lent) as counter:
        model(**batch).loss.backward()
    return counter.get_total_flops()


def without_causality(sizes, fed, training) -> int:
    """What torch's counter adds: it takes causal attention for all pairs of a sequence."""
    lengths = [each.num_tokens if len(each.question_tokens) == 1 else each.num_prefix_tokens for each in fed.groups]
    hidden = sum(length**2 - causal_pairs(length) for length in lengths)
    per_pair = 4 * (2 if training.recompute else 1) + 10
    return per_pair * sizes.query_width * sizes.layer_types.count(FULL_ATTENTION) * hidden


@pytest.mark.parametrize(
    ("targets", "recompute", "groups", "parts"),
    [
        ("qkv", False, ONE, {}),
        ("qkv", False, TWO, {}),
        ("all-linear", True, ONE, {}),
        ("all-linear", True, TWO, {}),
        ("qkv", False, ONE, {"train_vision_tower": True}),
        ("qkv", True, ONE, {"train_vision_tower": True, "train_projector": True}),
        ("qkv", False, ONE, {"train_projector": "full"}),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", KINDS)
def test_flops_equal_torchs_own_counter(kind, targets, recompute, groups, parts):
    sizes, batch = Sizes.from_config(MODELS[kind]), make_batch(MODELS[kind], groups)
    training = training_of(MODELS[kind], targets, recompute=recompute, **parts)
    fed = feed_of(batch, groups)
    counted = training_flops(sizes, fed, training).total + without_causality(sizes, fed, training)
    model = prepared(kind, targets, recompute=recompute, **parts)
    assert counted == pytest.approx(counted_by_torch(model, batch), rel=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_cached_features_cost_no_tower(kind):
    sizes, batch = Sizes.from_config(MODELS[kind]), make_batch(MODELS[kind], TWO)
    training, model = training_of(MODELS[kind], "qkv"), prepared(kind, "qkv")
    fed = feed_of(batch, TWO, with_tower=False)
    flops = training_flops(sizes, fed, training)
    assert flops.tower == flops.projector == 0
    real = counted_by_torch(model, with_features(model, batch))
    assert flops.total + without_causality(sizes, fed, training) == pytest.approx(real, rel=0.02)
    clips = fed.clips
    built = Costs(sizes).build_flops(clips)
    assert built.total == training_flops(sizes, feed_of(batch, TWO), training).total - flops.total


def test_full_size_flops_are_near_the_rule_of_thumb():
    """Two FLOPs per weight and token forward, two backward; source of the weights: the published numbers of parameters."""
    sizes = Sizes.from_config(PUBLISHED["Qwen3-VL-8B"])
    fed = Batch(1, 4096, 0, 60, groups=(GroupShape(4000, (96,)),))
    flops = training_flops(sizes, fed, training_of(PUBLISHED["Qwen3-VL-8B"], "qkv"))
    assert flops.language == pytest.approx(
        4 * 6.946e9 * 4096, rel=0.001
    )  # 8.767 without embedding, output layer and tower
    assert flops.attention == 14 * 4096 * 36 * causal_pairs(4096)
    assert flops.output_layer == 4 * 151936 * 4096 * 60


def test_groups_compute_the_clip_once():
    apart, together = GroupShape(4000, (100,)), GroupShape(4000, (100, 60))
    assert attended_pairs(apart) == causal_pairs(4100)
    assert attended_pairs(together) == causal_pairs(4000) + 2 * 100 * 4100


# --- memory


def bytes_kept_for_backward(model, batch, *, vocabulary, autocast: bool) -> int:
    """Runs a forward pass; returns the bytes of all storages that autograd keeps, but for weights and the loss."""
    own = {t.untyped_storage().data_ptr() for t in [*model.parameters(), *model.buffers()]}
    kept, tensors = {}, []

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own and vocabulary not in tensor.shape:
            kept[storage.data_ptr()] = storage.nbytes()
        tensors.append(tensor)  # an address may come again only when nobody holds it
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        model(**batch)
    return sum(kept.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("targets", "groups", "parts"),
    [("all-linear", ONE, {}), ("all-linear", TWO, {}), *(("qkv", ONE, parts) for parts in PARTS_TRAINED)],
    ids=str,
)
@pytest.mark.parametrize("kind", KINDS)
def test_saved_activations_equal_those_of_a_real_forward_pass(kind, targets, groups, parts, dtype):
    model, batch = prepared(kind, targets, dtype=dtype, **parts), make_batch(MODELS[kind], groups, dtype=dtype)
    counted = saved_bytes(
        Sizes.from_config(MODELS[kind]),
        feed_of(batch, groups),
        training_of(MODELS[kind], targets, dtype=dtype, **parts),
    )
    vocabulary = MODELS[kind]["text_config"]["vocab_size"]
    real = bytes_kept_for_backward(model, batch, vocabulary=vocabulary, autocast=dtype == torch.bfloat16)
    # from above: the first block keeps nothing before its first adapter, and a CPU's autocast leaves the tower's norms in bf16,
    # where a GPU's makes them fp32
    assert 0.995 * real <= counted <= 1.07 * real


@pytest.mark.parametrize("kind", KINDS)
def test_the_peak_of_a_real_step_is_met_from_above(kind):
    """Without the loss, whose own peak comes at another moment, and with cached features; blocks are recomputed."""
    config = json.loads(json.dumps(MODELS[kind]))
    config["text_config"]["num_hidden_layers"] = 4
    groups = [((4, 8, 8), [20] * 6)]
    model = adapt(load(config), config, targets="all-linear")
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.enable_input_require_grads()
    batch = with_features(model, make_batch(config, groups))
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
    fed = feed_of(batch, groups, with_tower=False)
    memory = peak_memory(Sizes.from_config(config), fed, training_of(config, "all-linear", recompute=True))
    assert live.peak <= memory.saved + memory.layer <= live.peak * 1.12


def test_features_keep_one_vector_per_level():
    """Source: 4 levels of 4096 values in bf16 are 32,768 bytes per token, and 134 MB for a clip of 4,096 tokens."""
    clip = ClipShape(32, 4096)
    assert feature_bytes(Sizes.from_config(PUBLISHED["Qwen3-VL-8B"]), [clip], dtype_bytes=2) == 4096 * 32_768
    assert feature_bytes(Sizes.from_config(PUBLISHED["Qwen2.5-VL-7B"]), [clip], dtype_bytes=2) == 4096 * 7_168
    assert feature_bytes(Sizes.from_config(PUBLISHED["Qwen3.5-9B"]), [clip, clip], dtype_bytes=2) == 2 * 4096 * 8_192
    assert costs_of(PUBLISHED["Qwen3-VL-30B-A3B"]) is None


@pytest.mark.parametrize("name", ["Qwen2.5-VL-7B", "Qwen3-VL-8B", "Qwen3.5-9B"])
def test_full_size_weights_are_those_of_the_files(name):
    config = PUBLISHED[name]
    sizes, parts = Sizes.from_config(config), PARTS[config["model_type"]]
    training = replace(training_of(config, "all-linear", recompute=True), dtype_bytes=2)
    fed = Batch(1, 2148, 0, 60, 32, 32, groups=(GroupShape(2048, (100,), (ClipShape(32, 2016),)),))
    memory = peak_memory(sizes, fed, training)
    shapes = loaded_shapes(sizes)
    assert memory.weights == 2 * sum(torch.Size(shape).numel() for shape in shapes.values())
    cached = peak_memory(sizes, replace(fed, num_tower_frames=0), replace(training, has_tower=False))
    of_vision = sum(torch.Size(shape).numel() for each, shape in shapes.items() if each.startswith("model.visual."))
    assert memory.weights - cached.weights == 2 * of_vision
    assert cached.vision == 0 < memory.vision
    assert memory.adapter == 4 * count_adapter(parts, shapes, targets="all-linear", rank=4).total
    assert adapted_names(parts, "all-linear") == training.adapted


def test_recomputation_keeps_little():
    config = PUBLISHED["Qwen3-VL-8B"]
    sizes = Sizes.from_config(config)
    fed = Batch(1, 4196, 0, 60, groups=(GroupShape(4096, (100,), (ClipShape(32, 4000),)),))
    kept, again = (saved_bytes(sizes, fed, training_of(config, "all-linear", recompute=each)) for each in (False, True))
    assert again < kept / 15


def test_counting_loads_no_torch():
    code = (
        "import sys, cvft.families.qwen_vl.costs\n"
        "print([name for name in ('torch', 'numpy', 'transformers') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
