"""Models spread over GPUs: when they are, and that no operation mixes devices where they are cut."""

import pytest
import torch
from accelerate import infer_auto_device_map
from transformers import DynamicCache

from cvft.errors import ModelError
from cvft.families.cogvlm2_video.network.load import load_config, load_model
from cvft.families.cogvlm2_video.network.vision import VisionTower
from cvft.plan.job import open_job
from cvft.plan.machine import GpuFacts, Machine
from cvft.plan.ranks import Ranks
from cvft.predict.placement import RESERVE_BYTES, WEIGHTS_SHARE, choose_num_ranks, spreads_over_gpus
from cvft.recipe import load_recipe
from tests.project import make_project
from tests.tiny import TINY

GIB = 1 << 30


@pytest.mark.parametrize(
    ("weights_gib", "free_gib", "spread"),
    [(10, (24,), False), (10, (24, 24), False), (25, (24, 24), True), (25, (24, 8), True), (25, (40, 1), False)],
)
def test_a_model_is_spread_when_one_gpu_has_no_room(weights_gib, free_gib, spread):
    assert spreads_over_gpus(weights_gib * GIB, [free * GIB for free in free_gib]) is spread


def test_the_room_is_counted_to_the_byte():
    fits = RESERVE_BYTES + int(100 * GIB * WEIGHTS_SHARE)
    assert not spreads_over_gpus(100 * GIB, [fits, fits])
    assert spreads_over_gpus(100 * GIB, [fits - 1, fits])


@pytest.mark.parametrize(
    ("gpu_gib", "num_rows", "num_ranks"),
    [(24, 2000, 1), (28, 2000, 1), (29, 2000, 8), (76, 64, 2), (76, 60, 1), (76, 0, 1), (None, 2000, 1)],
)
def test_the_ranks_that_trained_answer_where_the_model_fits_on_each_and_there_is_enough_to_do(
    tmp_path, full_size, gpu_gib, num_rows, num_ranks
):
    recipe = make_project(tmp_path)
    gpus = () if gpu_gib is None else (GpuFacts("a GPU", gpu_gib * GIB),) * 8
    job = open_job(
        load_recipe(recipe, overrides=[*full_size, "model.dtype=bf16", "eval.batch_rows=4"]),
        needs_weights=False,
        machine=Machine(gpus, host_bytes=0),
        ranks=Ranks("cuda", 8, 1),
    )
    assert choose_num_ranks(job, num_rows=num_rows) == num_ranks


@pytest.mark.parametrize("free_gib", [(24,), (12, 12), (2, 2, 2, 2)])
def test_too_little_memory_is_one_clear_error(free_gib):
    with pytest.raises(
        ModelError, match=r"memory of the GPUs: got .* GiB free, need 26\.2 GiB for the weights, and 2 GiB more"
    ):
        spreads_over_gpus(25 * GIB, [free * GIB for free in free_gib])


# The meta device stands for the second GPU: what lies there has no contents, operations on it and the CPU together are
# refused as between two GPUs, and tensors can be moved there, though not back.


def test_frame_markers_may_lie_on_another_device_than_the_projector():
    tower = VisionTower(load_config(TINY))
    tower.linear_proj.to("meta")
    features = torch.empty(3, 4, tower.linear_proj.linear_proj.in_features, device="meta")
    assert tower.project(features).device.type == "meta"
    with pytest.raises(RuntimeError, match="Tensor on device meta is not on the expected device cpu"):
        torch.cat((tower.boi.expand(3, -1, -1), tower.linear_proj(features)), dim=1)


def move_inputs(module, args, kwargs):
    """What accelerate's hook does before a block: its inputs go where its weights are; caches stay."""
    device = next(module.parameters()).device

    def move(value):
        return value.to(device) if isinstance(value, torch.Tensor) else value

    return tuple(map(move, args)), {name: move(value) for name, value in kwargs.items()}


@pytest.mark.parametrize("num_here", [0, 1, 2])
def test_blocks_and_their_caches_may_lie_on_several_devices(num_here):
    model = load_model(TINY, dtype=torch.float32)
    assert len(model.model.layers) > num_here
    for part in (*model.model.layers[num_here:], model.model.norm, model.lm_head):
        part.to("meta").register_forward_pre_hook(move_inputs, with_kwargs=True)
    cache = DynamicCache(config=model.config)
    width = model.config.hidden_size
    with torch.no_grad():
        model.model(
            inputs_embeds=torch.zeros(2, 9, width),
            position_ids=torch.arange(9).expand(2, -1),
            past_key_values=cache,
        )
        cache.batch_select_indices(torch.tensor([0, 1, 1]))
        logits = model(
            inputs_embeds=torch.zeros(3, 1, width), position_ids=torch.full((3, 1), 9), past_key_values=cache
        ).logits
    assert logits.shape == (3, 1, model.config.vocab_size)
    devices = [layer.keys.device.type for layer in cache.layers]
    assert devices == ["cpu"] * num_here + ["meta"] * (len(devices) - num_here)


def test_parts_that_add_up_their_own_outputs_are_never_cut():
    model = load_model(TINY, dtype=torch.float32)
    halves = infer_auto_device_map(
        model,
        max_memory={0: 1_500_000, 1: 1_500_000, "cpu": 10**9},
        no_split_module_classes=model._no_split_modules,
    )
    assert len(set(map(str, halves.values()))) > 1
    whole = ("DecoderLayer", "VisionLayer", "PatchEmbedding", "Projector")
    for name, module in model.named_modules():
        if type(module).__name__ in whole:
            assert not [key for key in halves if key.startswith(f"{name}.")]
