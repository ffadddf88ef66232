"""The goldens of Qwen's video families, and our side of every case: what the tests compare."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cvft.families.family import Layout
from cvft.families.grid import Grid
from cvft.families.network.patches import preprocess_frames
from cvft.families.network.positions import row_positions
from cvft.families.qwen_vl.grid import grid_of
from cvft.families.qwen_vl.layout import STYLES, ClipLayout, build_layout
from cvft.families.qwen_vl.norms import NORMS
from cvft.families.qwen_vl.times import second_per_grid, shown_seconds
from cvft.families.qwen_vl.tokenizer import load_encoder
from tests.golden_files import golden_file
from tests.qwen_cases import (
    CASES,
    IMAGE_CASES,
    IMAGE_MODEL_CASES,
    MODEL_CASES,
    SEVERAL_CASES,
    SEVERAL_MODEL_CASES,
    Case,
)
from tests.qwen_tiny import generation_of

BY_NAME = {case.name: case for case in (*CASES, *IMAGE_CASES, *SEVERAL_CASES)}
PATCH_PX = {"qwen2_5_vl": 14, "qwen3_vl": 16, "qwen3_5": 16}
NAMES = (
    "qwen2_5_vl-4.57.6",
    "qwen2_5_vl-5.19.0",
    "qwen3_5-5.2.0",
    "qwen3_5-5.19.0",
    "qwen3_vl-4.57.6",
    "qwen3_vl-5.19.0",
)
"""Goldens of all cases with clips."""
IMAGE_NAMES = ("qwen2_5_vl-images-4.57.6", "qwen3_vl-images-4.57.6", "qwen3_5-images-5.2.0")
"""Goldens of all cases with pictures, and their logits."""
SEVERAL_NAMES = ("qwen2_5_vl-several-4.57.6", "qwen3_vl-several-4.57.6")
"""Goldens of all cases with several clips or pictures, and their logits."""
MODEL_NAMES = ("qwen2_5_vl-4.57.6", "qwen3_vl-4.57.6", "qwen3_vl_moe-4.57.6", "qwen3_5-5.2.0", "qwen3_5_moe-5.2.0")
"""Goldens with logits: each model under the version that it was released with; those of experts have no other cases."""
TOKENS_PER_SECOND = 2


@dataclass(frozen=True)
class Golden:
    """What one version of the makers' code says to every case."""

    name: str
    kind: str
    variant: dict[str, str]
    cases: dict[str, dict[str, Any]]
    sizes: list[list[int] | None]
    arrays: dict[str, np.ndarray]

    @property
    def model_cases(self) -> tuple[str, ...]:
        if self.name in SEVERAL_NAMES:
            return SEVERAL_MODEL_CASES
        return IMAGE_MODEL_CASES if self.name in IMAGE_NAMES else MODEL_CASES if self.name in MODEL_NAMES else ()

    @property
    def generation(self) -> str:
        return generation_of(self.kind)


@cache
def golden(name: str) -> Golden:
    path = golden_file(f"qwen_vl/{name}.json")
    about = json.loads(path.read_text())
    with np.load(path.with_suffix(".npz")) as file:
        arrays = dict(file)
    return Golden(name, about["kind"], about["variant"], about["cases"], about["sizes"], arrays)


def grid_of_case(case: Case, kind: str) -> Grid | None:
    if not case.num_frames:
        return None
    return grid_of(
        case.num_frames,
        case.height,
        case.width,
        patch_px=PATCH_PX[kind],
        merge=2,
        temporal_patch=2,
        min_tokens=case.min_tokens,
        max_tokens=case.max_tokens,
    )


def lay_out(folder: Path, case: Case, kind: str, *, clip_tags: str = "released", encode: Any = None) -> Layout:
    own, special = load_encoder(folder)
    return build_layout(
        encode or own,
        style=STYLES[kind],
        special=special,
        clip_tags=clip_tags,  # type: ignore[arg-type]
        query=case.query,
        history=case.history,
        response=case.response,
        system=case.system,
        clips=[lay_out_clip(clip, kind) for clip in case.clips],
    )


def lay_out_clip(clip: Case, kind: str) -> ClipLayout:
    grid = grid_of_case(clip, kind)
    assert grid is not None
    if clip.is_image:
        return ClipLayout(grid, is_image=True)
    return ClipLayout(grid, shown_seconds([index / clip.avg_fps for index in clip.frame_indices], temporal_patch=2))


def positions_of(types: list[int], case: Case, kind: str, *, text_positions: str, grid_seconds: str) -> Tensor:
    steps = [0.0] * len(case.clips)
    if kind == "qwen2_5_vl" and not case.is_image:
        steps = [
            TOKENS_PER_SECOND
            * second_per_grid(
                clip.num_frames,
                num_frames_total=clip.num_frames_total,
                avg_fps=clip.avg_fps,
                temporal_patch=2,
                grid_seconds=grid_seconds,  # type: ignore[arg-type]
            )
            for clip in case.clips
        ]
    return row_positions(
        types,
        grids=[lay_out_clip(clip, kind).grid for clip in case.clips],
        grid_steps=steps,
        text_positions=text_positions,  # type: ignore[arg-type]
    )


def pixels_of(case: Case, kind: str) -> Tensor:
    patch_px = PATCH_PX[kind]
    return torch.cat(
        [
            preprocess_frames(
                clip.draw_frames(),
                grid=lay_out_clip(clip, kind).grid,
                patch_px=patch_px,
                temporal_patch=2,
                norm=NORMS[kind],
            )
            for clip in case.clips
        ]
    )


def grids_of(case: Case, kind: str) -> list[list[int]]:
    grids = [lay_out_clip(clip, kind).grid for clip in case.clips]
    return [[grid.num_grids, grid.num_rows, grid.num_columns] for grid in grids]
