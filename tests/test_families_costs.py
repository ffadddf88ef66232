"""The counts of a plan: parameters equal the model's and peft's, FLOPs equal torch's own counter, GPUs are found by name."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import peft
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from cvft.families.cogvlm2_video.architecture import Architecture
from cvft.families.cogvlm2_video.costs import costs_of, feature_bytes
from cvft.families.cogvlm2_video.network.load import load_model
from cvft.families.cogvlm2_video.tensors import PARTS
from cvft.families.costs import AdapterParameters, Batch, ClipShape, GroupShape, Training, causal_pairs
from cvft.families.parts import adapted_names, count_adapter, modules_to_save, target_regex
from cvft.plan.forecast import LANGUAGE_UTILISATION, estimated_seconds
from cvft.plan.gpus import GPUS, find_gpu
from cvft.weights.folder import read_config_json
from tests.tiny import TINY, tiny_processor

FULL = Architecture.from_config({})
SMALL = Architecture.from_config(read_config_json(TINY))
SPEC = Path(__file__).parent / "golden" / "state_dict.json"

PREFIX_TOKENS, ANSWER_TOKENS, LABELS = 1609, 100, 60
"""A clip's tokens, and a question's and its answer's, for which the paper model of the performance notes prints numbers."""

RANK_16 = count_adapter(PARTS, FULL.shapes, targets="all-linear", rank=16)
ALL_LINEAR = Training(2, adapted_names(PARTS, "all-linear"), rank=16, adapter=RANK_16, recompute=True)
TFLOPS = 1e12


def shown(num_frames, *, with_tower=True):
    """What a batch is told of one clip of so many frames."""
    group = GroupShape(0, (0,), (ClipShape(num_frames, 0),))
    return {
        "num_tower_frames": num_frames * with_tower,
        "num_projected_frames": num_frames,
        "groups": (group,),
    }


def adapt(model, *, rank=4, dropout=0.0, dora=False, **targets):
    whole = modules_to_save(PARTS, SMALL.shapes, train_projector=targets.get("train_projector", False))
    for name in whole:
        model.get_submodule(name).float()  # as training does
    regex = target_regex(PARTS, **targets)
    config = peft.LoraConfig(
        target_modules=regex, r=rank, lora_dropout=dropout, use_dora=dora, modules_to_save=whole or None
    )
    model = peft.get_peft_model(model, config).train()
    for module in model.modules():
        if hasattr(module, "cast_input_dtype_enabled"):
            module.cast_input_dtype_enabled = False  # as training does
    return model


def encode(*, num_frames=6):
    processor = tiny_processor()
    pixels = torch.randn(num_frames, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    times = range(num_frames)
    row = processor.encode("What colour?", pixel_values=pixels, time_indices=times, response="red at second 2")
    return processor.collate([row])


# --- parameters


def test_parameters_equal_those_of_the_real_tiny_model():
    model = load_model(TINY, dtype=torch.float32)
    parameters = SMALL.parameters
    assert parameters.total == sum(p.numel() for p in model.parameters())
    assert SMALL.num_buffer_values == sum(b.numel() for b in model.buffers())
    projector = [*model.model.vision.linear_proj.parameters(), model.model.vision.boi, model.model.vision.eoi]
    assert parameters.projector == sum(p.numel() for p in projector)
    assert parameters.tower + parameters.projector == sum(p.numel() for p in model.model.vision.parameters())
    assert parameters.output_layer == model.lm_head.weight.numel()
    assert parameters.embedding == model.model.embed_tokens.weight.numel()


def test_parameters_equal_the_published_checkpoint():
    shapes = {name: shape for name, (_, shape) in json.loads(SPEC.read_text()).items()}
    num_values = sum(math.prod(shape) for shape in shapes.values())
    assert FULL.parameters.total == 12_507_530_496
    assert FULL.parameters.total + FULL.num_buffer_values == num_values
    projector = [name for name in shapes if "linear_proj" in name or name.endswith(("boi", "eoi"))]
    assert FULL.parameters.projector == sum(math.prod(shapes[name]) for name in projector)


def test_missing_keys_have_the_published_values():
    assert Architecture.from_config({}) == FULL
    assert Architecture.from_config({"hidden_size": 8, "hidden_act": "silu"}).hidden_size == 8


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize(
    "targets",
    [
        {"targets": "qkv"},
        {"targets": "all-linear"},
        {"targets": ("up_proj", "language_expert_dense")},
        {"targets": "qkv", "train_vision_tower": True},
        {"targets": "all-linear", "train_projector": True},
        {"targets": "all-linear", "train_vision_tower": True, "train_projector": True},
        {"targets": "qkv", "train_projector": "full"},
        {"targets": "all-linear", "train_vision_tower": True, "train_projector": "full"},
    ],
    ids=str,
)
def test_adapter_parameters_equal_pefts(targets, dora):
    model = adapt(load_model(TINY, dtype=torch.float32), rank=3, dora=dora, **targets)
    counted = count_adapter(PARTS, SMALL.shapes, rank=3, dora=dora, **targets)
    assert counted.total == sum(p.numel() for p in model.parameters() if p.requires_grad)
    in_vision = sum(p.numel() for n, p in model.named_parameters() if p.requires_grad and ".vision." in n)
    assert counted.tower + counted.projector + counted.whole_projector == in_vision


# --- FLOPs


def group_of(num_clips: int, num_answers: int) -> Batch:
    """Clips whose questions share them: each answer sees the clip and itself."""
    pairs_of_answer = ANSWER_TOKENS * PREFIX_TOKENS + causal_pairs(ANSWER_TOKENS)
    return Batch(
        num_sequences=1,
        num_tokens=num_clips * PREFIX_TOKENS + num_answers * ANSWER_TOKENS,
        num_pairs=num_clips * causal_pairs(PREFIX_TOKENS) + num_answers * pairs_of_answer,
        num_label_tokens=num_answers * LABELS,
    )


@pytest.mark.parametrize(("recompute", "tflops"), [(True, 14.32), (False, 9.69)])
def test_full_size_flops_of_shared_clips_equal_the_paper_models(recompute, tflops):
    """Source: performance notes, section 7, rows `+prefix` and `+no-recompute` at 7.4 questions per clip; 37 = 5 x 7.4."""
    flops = costs_of(FULL).training_flops(group_of(5, 37), replace(ALL_LINEAR, recompute=recompute))
    assert flops.total / 37 / TFLOPS == pytest.approx(tflops, rel=0.001)  # printed with two decimals


@pytest.mark.parametrize(("recompute", "tflops"), [(True, 79.12), (False, 54.37)])
def test_full_size_flops_of_stock_training_equal_the_paper_models(recompute, tflops):
    """Source: as above, rows `stock` and `stock-nogc`."""
    stock = replace(ALL_LINEAR, recompute=recompute, scores_all_tokens=True)
    flops = costs_of(FULL).training_flops(group_of(1, 1), stock)
    assert flops.total / TFLOPS == pytest.approx(tflops, rel=0.001)


def test_full_size_flops_of_vision_equal_the_paper_models():
    """Source: as above; its 54.10 TFLOP for a clip hold the projector's 0.56, which `build_flops` leaves out."""
    built = costs_of(FULL).build_flops([ClipShape(24, 0)])
    projected = costs_of(FULL).training_flops(Batch(1, 0, 0, 0, **shown(24, with_tower=False)), ALL_LINEAR)
    assert built.total / TFLOPS == pytest.approx(53.53, rel=0.001)
    assert (built.total + projected.projector) / TFLOPS == pytest.approx(54.10, rel=0.001)


def counted_by_torch(model, batch) -> int:
    """FLOPs of forward and backward pass; torch's counter knows the fused attention of GPUs only, so its formula is lent."""

    def forward(query, key, value, *args, out_shape=None, **kwargs):
        return sdpa_flop_count(query, key, value)

    def backward(gradient, query, key, value, *args, out_shape=None, **kwargs):
        return sdpa_backward_flop_count(gradient, query, key, value)

    on_cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    lent = {on_cpu: forward, torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: backward}
    with FlopCounterMode(display=False, custom_mapping=lent) as counter:
        model(**batch).loss.backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("targets", ["qkv", "all-linear"])
@pytest.mark.parametrize("projector", [False, True, "full"])
@pytest.mark.parametrize("recompute", [False, True])
def test_flops_equal_torchs_own_counter(targets, projector, recompute):
    chosen = {"targets": targets, "train_vision_tower": projector is True, "train_projector": projector}
    model = adapt(load_model(TINY, dtype=torch.float32), **chosen)
    if recompute:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    batch = encode()
    num_tokens = batch["input_ids"].numel()
    fed = Batch(1, num_tokens, num_tokens**2, 0, **shown(6))  # torch counts no mask
    adapter, adapted = count_adapter(PARTS, SMALL.shapes, rank=4, **chosen), adapted_names(PARTS, targets)
    training = Training(4, adapted, rank=4, adapter=adapter, recompute=recompute, scores_all_tokens=True)
    flops = costs_of(SMALL).training_flops(fed, training)
    # not equal: the first of the five blocks needs no gradient of its input, and recomputation stops before the last product
    assert flops.total == pytest.approx(counted_by_torch(model, batch), rel=0.02)


# --- bytes, seconds, GPUs


def test_features_of_a_clip():
    """Source: performance notes, section 2: 24 x 64 x 1792 in bf16 are 5.51 MB."""
    assert feature_bytes(FULL, [ClipShape(24, 0)], dtype_bytes=2) == 24 * 64 * 1792 * 2 == 5_505_024


def test_seconds_are_work_over_what_is_reached():
    gpu = find_gpu("H200")
    assert gpu is not None
    assert estimated_seconds(int(989e12), gpu, utilisation=0.5) == pytest.approx(2)
    # source: performance notes, section 7: 46.4 questions per second at 7.52 per clip; here 7.4
    flops = costs_of(FULL).training_flops(group_of(5, 37), replace(ALL_LINEAR, recompute=False)).total
    seconds = estimated_seconds(flops, gpu, utilisation=LANGUAGE_UTILISATION)
    assert 37 / seconds == pytest.approx(46, rel=0.02)


@pytest.mark.parametrize(
    ("driver_name", "name"),
    [
        ("NVIDIA A100-SXM4-40GB", "A100-40GB"),
        ("NVIDIA A100-PCIE-40GB", "A100-40GB"),
        ("NVIDIA A100-SXM4-80GB", "A100-80GB"),
        ("NVIDIA A100 80GB PCIe", "A100-80GB"),
        ("NVIDIA H100 80GB HBM3", "H100-SXM"),
        ("NVIDIA H100 PCIe", "H100-PCIe"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA B200", "B200"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA GeForce RTX 3090", "RTX 3090"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA A10", "A10"),
        ("a100-40gb", "A100-40GB"),
        ("rtx4090", "RTX 4090"),
        ("h100-pcie", "H100-PCIe"),
    ],
)
def test_gpus_are_found_by_driver_and_short_name(driver_name, name):
    gpu = find_gpu(driver_name)
    assert gpu is not None
    assert gpu.name == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "NVIDIA",
        "Tesla T4",
        "NVIDIA A10G",
        "NVIDIA L40",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA A100-SXM4-40GB MIG 1g.5gb",
        "a100",
    ],
)
def test_another_device_is_no_gpu_of_the_table(name):
    assert find_gpu(name) is None


def test_every_name_finds_its_own_gpu():
    for gpu in GPUS:
        assert all(find_gpu(name) is gpu for name in (gpu.name, *gpu.driver_names))
        assert gpu.memory_bytes == int(gpu.memory_gib * 2**30)


def test_counting_loads_no_torch():
    code = (
        "import sys, cvft.families.cogvlm2_video.costs\n"
        "print([name for name in ('torch', 'numpy', 'transformers') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_an_empty_batch_costs_nothing():
    training = Training(2, (), rank=1, adapter=AdapterParameters(1), recompute=True)
    assert costs_of(FULL).training_flops(Batch(0, 0, 0, 0), training).total == 0
