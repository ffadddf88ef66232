"""Batches of transformers' own classes as training makes them: clips with several questions each, of random ids and pixels."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import peft
import torch

from cvft.families.costs import Batch, ClipShape, GroupShape, Training
from cvft.families.glm4v.family import GLM4V
from cvft.families.glm4v.network import load as glm4v
from cvft.families.internvl.family import INTERNVL
from cvft.families.internvl.network import models as internvl
from cvft.families.model_costs import ModelCosts
from cvft.families.network import grid_scoring
from cvft.families.network.scoring import attend_in_groups
from cvft.families.parts import Parts, Shape, adapted_names, count_adapter, loaded_shapes, modules_to_save, target_regex
from cvft.families.qwen_vl.family import BY_NAME_OF_FAMILY as QWEN_VL
from cvft.families.qwen_vl.network.delta_net import fork_states_in_groups
from cvft.families.qwen_vl.network.models import CLASSES
from cvft.families.qwen_vl.sizes import MODEL_TYPES, QWEN2_5_VL, QWEN3_VL, QWEN3_VL_MOE
from tests import glm4v_tiny, internvl_tiny
from tests.qwen_configs import tiny

Groups = list[tuple[tuple[int, int, int], list[int]]]
"""Clips (grids, rows, columns of patches), and the lengths of their questions. InternVL's frames are all `FRAME_PATCHES` wide."""

TEXT = {
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 24,
    "vocab_size": 640,
}
EXPERTS = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 88}
SHARED_EXPERT = {"shared_expert_intermediate_size": 56}
TOWER = {"depth": 8, "hidden_size": 64, "num_heads": 4, "intermediate_size": 176, "out_hidden_size": 128}
FRAME_PATCHES = 8


@dataclass(frozen=True)
class Stock:
    """A model of a family, between the tiny ones and those of laptops: its blocks outweigh what is around them.

    Args:
        family: The family.
        config: Values of its config.json.
        network: transformers' class with `LabelScoring`.
    """

    family: Any
    config: dict[str, Any]
    network: Any

    @property
    def parts(self) -> Parts:
        return self.family.parts

    @property
    def shapes(self) -> dict[str, Shape]:
        return loaded_shapes(self.family.tensors(self.config), self.family.module_of)

    @property
    def costs(self) -> ModelCosts:
        return self.family.costs(self.config)

    @property
    def vocab_size(self) -> int:
        return self.config["text_config"]["vocab_size"]

    @property
    def is_framed(self) -> bool:
        """Whether frames are pictures of one size, and not patches of a grid."""
        return self.family is INTERNVL

    def load(self, *, dtype: torch.dtype = torch.float32) -> Any:
        """A model with random weights, its decoder taking groups."""
        config_class = self.network.config_class
        values = config_class(**json.loads(json.dumps(self.config)))
        torch.manual_seed(0)
        model: Any = self.network._from_config(values, attn_implementation="sdpa").to(dtype)
        attend_in_groups(model)
        fork_states_in_groups(model)
        return model

    def adapt(self, model: Any, *, rank: int = 4, dropout: float = 0.0, **targets: Any) -> Any:
        """Puts adapters on as training does."""
        whole = modules_to_save(self.parts, self.shapes, train_projector=targets.get("train_projector", False))
        for name in whole:
            model.get_submodule(name).float()
        lora = peft.LoraConfig(
            target_modules=target_regex(self.parts, **targets),
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

    def clip_of(self, grid: tuple[int, int, int]) -> ClipShape:
        t, h, w = grid
        return ClipShape(t, t * FRAME_PATCHES**2 // 4) if self.is_framed else ClipShape(2 * t, t * h * w // 4)

    def batch(
        self, groups: Groups, *, text: int = 5, labels: int = 3, dtype: torch.dtype = torch.float32
    ) -> dict[str, Any]:
        """Clips, each behind some text and before questions of so many tokens, the last ones labelled."""
        generator = torch.Generator().manual_seed(1)
        sequences, lengths, pixels = [], [], []
        place = self.config["video_token_id" if self.family.name in QWEN_VL else "image_token_id"]
        for grid, questions in groups:
            clip = self.clip_of(grid)
            pixels.append(torch.randn(*self._pixels_of(clip), generator=generator))
            prefix = [20] * text + [place] * clip.num_tokens + [13]
            ids, wanted = list(prefix), [-100] * len(prefix)
            for length in questions:
                ids += torch.randint(30, 300, (length,), generator=generator).tolist()
                wanted += [-100] * (length - labels) + ids[-labels:]
            several = len(questions) > 1
            lengths.append((len(prefix) if several else len(ids), questions if several else []))
            sequences.append((ids, wanted))
        longest = max(len(ids) for ids, _ in sequences)
        positions = torch.arange(longest)[None].expand(len(sequences), -1)
        frames = {"pixel_values": torch.cat(pixels).to(dtype)}
        if not self.is_framed:
            positions = positions[..., None].expand(-1, -1, 3)
            grids = torch.tensor([grid for grid, _ in groups])
            frames = {"pixel_values_videos": frames["pixel_values"], "video_grid_thw": grids}
        return {
            "input_ids": torch.tensor([ids + [0] * (longest - len(ids)) for ids, _ in sequences]),
            "labels": torch.tensor([wanted + [-100] * (longest - len(wanted)) for _, wanted in sequences]),
            "position_ids": positions.contiguous(),
            "group_lengths": lengths,
            **frames,
        }

    def _pixels_of(self, clip: ClipShape) -> tuple[int, ...]:
        if self.is_framed:
            side = self.config["vision_config"]["image_size"][0]
            return (clip.num_frames, 3, side, side)
        vision = self.costs.vision
        return (vision.num_patches(clip), vision.patch_weights // vision.block.width)

    def encode_clips(self, model: Any, batch: dict[str, Any]) -> torch.Tensor:
        """What the tower makes of the clips of a batch."""
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        if self.is_framed:
            return internvl.encode_clip(inner.model, batch["pixel_values"])
        return grid_scoring.encode_clip(inner.model, batch["pixel_values_videos"], batch["video_grid_thw"])

    def with_features(self, model: Any, batch: dict[str, Any]) -> dict[str, Any]:
        """The same batch with what the tower makes of its clips in place of their pixels."""
        frames = ("pixel_values", "pixel_values_videos", "video_grid_thw")
        with torch.no_grad():
            features = self.encode_clips(model, batch)
        return {**{key: value for key, value in batch.items() if key not in frames}, "vision_features": features}

    def feed(self, groups: Groups, *, text: int = 5, labels: int = 3, with_tower: bool = True) -> Batch:
        """What the formulas are told of a batch that `batch` made."""
        clips = [self.clip_of(grid) for grid, _ in groups]
        shapes = tuple(
            GroupShape(text + clip.num_tokens + 1, tuple(questions), (clip,))
            for clip, (_, questions) in zip(clips, groups, strict=True)
        )
        num_frames = sum(clip.num_frames for clip in clips)
        return Batch(
            num_sequences=len(shapes),
            num_tokens=len(shapes) * max(shape.num_tokens for shape in shapes),
            num_pairs=0,
            num_label_tokens=labels * sum(len(questions) for _, questions in groups),
            num_tower_frames=num_frames if with_tower else 0,
            num_projected_frames=num_frames,
            groups=shapes,
        )

    def training(
        self, targets: str, *, dtype: torch.dtype = torch.float32, recompute: bool = False, **parts: Any
    ) -> Training:
        """How `adapt` prepares a model."""
        adapter = count_adapter(self.parts, self.shapes, targets=targets, rank=4, **parts)
        adapted = adapted_names(self.parts, targets)
        return Training(dtype.itemsize, adapted, rank=4, adapter=adapter, recompute=recompute)


def _qwen(model_type: str) -> Stock:
    text = {key: value for key, value in TEXT.items() if key != "head_dim" or model_type != QWEN2_5_VL}
    config = tiny(model_type, **text)
    if "num_experts" in config["text_config"]:
        config["text_config"] |= EXPERTS
    if "shared_expert_intermediate_size" in config["text_config"]:
        config["text_config"] |= SHARED_EXPERT
    config["vision_config"] |= TOWER
    if model_type == QWEN2_5_VL:
        config["text_config"]["rope_parameters"]["mrope_section"] = [2, 3, 3]
        config["vision_config"]["fullatt_block_indexes"] = [3, 7]
    if model_type in (QWEN3_VL, QWEN3_VL_MOE):
        config["vision_config"]["deepstack_visual_indexes"] = [1, 3, 5]
    return Stock(QWEN_VL[model_type], config, CLASSES[model_type])


def _internvl(kind: str) -> Stock:
    config = internvl_tiny.config_of(kind)
    config["text_config"] |= {key: value for key, value in TEXT.items() if key != "head_dim" or kind != "internvl3"}
    config["text_config"]["max_window_layers"] = TEXT["num_hidden_layers"]
    side = FRAME_PATCHES * config["vision_config"]["patch_size"][0]
    config["vision_config"] |= {
        "num_hidden_layers": TOWER["depth"],
        "hidden_size": TOWER["hidden_size"],
        "num_attention_heads": TOWER["num_heads"],
        "intermediate_size": TOWER["intermediate_size"],
        "image_size": [side, side],
    }
    return Stock(INTERNVL, config, internvl.CLASS)


def _glm4v() -> Stock:
    config = glm4v_tiny.config_of()
    config["text_config"] |= {key: value for key, value in TEXT.items() if key != "head_dim"}
    config["vision_config"] |= TOWER
    return Stock(GLM4V, config, glm4v.CLASS)


STOCK = {
    **{model_type: _qwen(model_type) for model_type in MODEL_TYPES},
    **{kind: _internvl(kind) for kind in internvl_tiny.KINDS},
    "glm4v": _glm4v(),
}
"""Models by the names of their kinds."""
