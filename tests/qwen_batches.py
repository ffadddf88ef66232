"""Batches of transformers' Qwen-VL models as training makes them: clips with several questions each, of random ids and pixels."""

from __future__ import annotations

import json
from typing import Any

import peft
import torch
import transformers

from cvft.families.costs import Batch, ClipShape, GroupShape, Training
from cvft.families.network.grid_scoring import encode_clip
from cvft.families.network.scoring import attend_in_groups
from cvft.families.parts import adapted_names, count_adapter, modules_to_save, target_regex
from cvft.families.qwen_vl.network.delta_net import fork_states_in_groups
from cvft.families.qwen_vl.network.models import CLASSES
from cvft.families.qwen_vl.parts import PARTS
from cvft.families.qwen_vl.sizes import QWEN2_5_VL, QWEN3_5, QWEN3_VL, Sizes
from cvft.families.qwen_vl.tensors import loaded_shapes
from tests.qwen_configs import tiny
from tests.test_qwen_tensors import CLASSES as CONFIGS

LARGER_TEXT = {
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 24,
    "vocab_size": 640,
}
LARGER_TOWER = {"depth": 8, "hidden_size": 64, "num_heads": 4, "intermediate_size": 176, "out_hidden_size": 128}


def larger(model_type: str) -> dict[str, Any]:
    """A config between the tiny ones and those of laptops, whose blocks outweigh what is around them."""
    text = {key: value for key, value in LARGER_TEXT.items() if key != "head_dim" or model_type != QWEN2_5_VL}
    config = tiny(model_type, **text)
    config["vision_config"] |= LARGER_TOWER
    if model_type == QWEN2_5_VL:
        config["text_config"]["rope_parameters"]["mrope_section"] = [2, 3, 3]
        config["vision_config"]["fullatt_block_indexes"] = [3, 7]
    if model_type == QWEN3_VL:
        config["vision_config"]["deepstack_visual_indexes"] = [1, 3, 5]
    return config


def load(config: dict[str, Any], *, dtype: torch.dtype = torch.float32) -> Any:
    """A model with random weights, its decoder taking groups."""
    config_class = getattr(transformers, CONFIGS[config["model_type"]][0])
    values = config_class(**json.loads(json.dumps(config)))
    torch.manual_seed(0)
    model: Any = CLASSES[config["model_type"]]._from_config(values, attn_implementation="sdpa").to(dtype)
    attend_in_groups(model)
    fork_states_in_groups(model)
    return model


def adapt(model: Any, config: dict[str, Any], *, rank: int = 4, dropout: float = 0.0, **targets: Any) -> Any:
    """Puts adapters on as training does."""
    parts, shapes = PARTS[config["model_type"]], loaded_shapes(Sizes.from_config(config))
    whole = modules_to_save(parts, shapes, train_projector=targets.get("train_projector", False))
    for name in whole:
        model.get_submodule(name).float()
    lora = peft.LoraConfig(
        target_modules=target_regex(parts, **targets),
        r=rank,
        lora_dropout=dropout,
        modules_to_save=whole or None,
        task_type="CAUSAL_LM",
    )
    adapted = peft.get_peft_model(model, lora).train()
    for module in adapted.modules():
        if hasattr(module, "cast_input_dtype_enabled"):
            module.cast_input_dtype_enabled = False
    return adapted


def make_batch(
    config: dict[str, Any],
    groups: list[tuple[tuple[int, int, int], list[int]]],
    *,
    text: int = 5,
    labels: int = 3,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Any]:
    """Clips (t, h, w) in patches, each behind some text and before questions of so many tokens, the last ones labelled."""
    generator = torch.Generator().manual_seed(1)
    tower, video = Sizes.from_config(config).tower, config["video_token_id"]
    pixels, grids, sequences, lengths = [], [], [], []
    for (t, h, w), questions in groups:
        num_patches = t * h * w
        grids.append((t, h, w))
        pixels.append(torch.randn(num_patches, tower.patch_values, generator=generator))
        prefix = [20] * text + [video] * (num_patches // tower.patches_per_token) + [13]
        ids, wanted = list(prefix), [-100] * len(prefix)
        for length in questions:
            ids += torch.randint(30, 300, (length,), generator=generator).tolist()
            wanted += [-100] * (length - labels) + ids[-labels:]
        several = len(questions) > 1
        lengths.append((len(prefix) if several else len(ids), questions if several else []))
        sequences.append((ids, wanted))
    longest = max(len(ids) for ids, _ in sequences)
    padded = torch.tensor([ids + [0] * (longest - len(ids)) for ids, _ in sequences])
    wanted = torch.tensor([wanted + [-100] * (longest - len(wanted)) for _, wanted in sequences])
    positions = torch.arange(longest)[None, :, None].expand(len(sequences), -1, 3)
    return {
        "input_ids": padded,
        "labels": wanted,
        "position_ids": positions.contiguous(),
        "group_lengths": lengths,
        "pixel_values_videos": torch.cat(pixels).to(dtype),
        "video_grid_thw": torch.tensor(grids),
    }


def with_features(model: Any, batch: dict[str, Any]) -> dict[str, Any]:
    """The same batch with what the tower makes of its clips in place of their pixels."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    rest = {key: value for key, value in batch.items() if key not in ("pixel_values_videos", "video_grid_thw")}
    with torch.no_grad():
        features = encode_clip(inner.model, batch["pixel_values_videos"], batch["video_grid_thw"])
    return {**rest, "vision_features": features}


KINDS = (QWEN2_5_VL, QWEN3_VL, QWEN3_5)


def feed_of(
    batch: dict[str, Any],
    groups: list[tuple[tuple[int, int, int], list[int]]],
    *,
    text: int = 5,
    labels: int = 3,
    with_tower: bool = True,
) -> Batch:
    """What the formulas are told of a batch that `make_batch` made."""
    shapes = []
    for (t, h, w), questions in groups:
        clip = ClipShape(2 * t, t * h * w // 4)
        shapes.append(GroupShape(text + clip.num_tokens + 1, tuple(questions), (clip,)))
    num_frames = sum(clip.num_frames for group in shapes for clip in group.clips)
    return Batch(
        num_sequences=len(shapes),
        num_tokens=batch["input_ids"].numel(),
        num_pairs=0,
        num_label_tokens=labels * sum(len(questions) for _, questions in groups),
        num_tower_frames=num_frames if with_tower else 0,
        num_projected_frames=num_frames,
        groups=tuple(shapes),
    )


def training_of(
    config: dict[str, Any], targets: str, *, dtype: torch.dtype = torch.float32, recompute: bool = False, **parts: Any
) -> Training:
    """How `adapt` prepares a model."""
    names = PARTS[config["model_type"]]
    shapes = loaded_shapes(Sizes.from_config(config))
    adapter = count_adapter(names, shapes, targets=targets, rank=4, **parts)
    return Training(dtype.itemsize, adapted_names(names, targets), rank=4, adapter=adapter, recompute=recompute)
