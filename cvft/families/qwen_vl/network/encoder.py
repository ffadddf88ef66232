"""Rows become inputs: the layout of a row, its positions, and its clip as patches or as cached features.

Row + ClipInputs -> input_ids (L), labels (L), position_ids (L, 3), segment_ids (L), patches or features -> groups -> batch (B, L)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from cvft.data.rows import Row
from cvft.data.video.decode import Clip
from cvft.data.video.view import ClipView
from cvft.families.family import Preprocessing, naming
from cvft.families.network.batching import collate_sequences
from cvft.families.network.grouping import group_rows
from cvft.families.network.patches import preprocess_frames
from cvft.families.network.pixels import resize_as_bytes
from cvft.families.network.positions import row_positions
from cvft.families.qwen_vl.family import QwenVL
from cvft.families.qwen_vl.inputs import Inputs, lay_out_clip
from cvft.families.qwen_vl.layout import ClipLayout, build_layout
from cvft.families.qwen_vl.norms import NORMS
from cvft.families.qwen_vl.sizes import Sizes
from cvft.families.qwen_vl.tokenizer import SpecialTokens
from cvft.families.runtime import ClipTensors, ShownFrames

PIXELS, GRIDS, FEATURES = "pixel_values_videos", "video_grid_thw", "vision_features"
IMAGE_PIXELS, IMAGE_GRIDS, IMAGE_FEATURES = "pixel_values", "image_grid_thw", "image_features"
"""What a clip, and a picture, is called: patches and their grid by transformers, cached features by us."""

CLIP_DIMS = {FEATURES: 1, IMAGE_FEATURES: 1}
"""Along which dimension clips follow one another, where that is not the first."""


class RowEncoder:
    """Turns rows into inputs; see `cvft.families.runtime.Encoder`.

    Args:
        family: The generation.
        config: Values of the folder's config.json.
        how: How rows reach the model.
        tokenizer: The folder's tokenizer, for texts that the model writes.
        encode: Its text encoder.
        special: Its control tokens.
    """

    takes_images = True

    def __init__(
        self,
        family: QwenVL,
        config: Mapping[str, Any],
        how: Preprocessing,
        *,
        tokenizer: Any,
        encode: Callable[[str], list[int]],
        special: SpecialTokens,
    ) -> None:
        self.tokenizer = tokenizer
        self.pads_questions = Sizes.from_config(config).delta_net is None
        self.special = special
        self.max_tokens = max(family.context_tokens(config), how.max_tokens)
        self._encode = encode
        self._inputs = Inputs.of(how.fields)
        self._style = family.style(self._inputs)
        self._tower = Sizes.from_config(config).tower
        self._norm = NORMS[family.generation.look]
        self._tokens_per_second = family.tokens_per_second(config)

    @property
    def padding_id(self) -> int:
        """Id that fills up a batch."""
        return self.special.padding

    def _lay_out_clip(self, view: ClipView) -> ClipLayout:
        return lay_out_clip(
            view,
            inputs=self._inputs,
            tower=self._tower,
            style=self._style,
            tokens_per_second=self._tokens_per_second,
        )

    def clip(self, clip: ShownFrames) -> dict[str, Tensor]:
        """Returns patches (t·h·w, values) fp32 and their grid (1, 3); those of a picture have other names."""
        shown = self._lay_out_clip(clip.view)
        grid = shown.grid
        patches = preprocess_frames(
            clip.frames,
            grid=grid,
            patch_px=self._tower.patch_size,
            temporal_patch=self._tower.temporal_patch_size,
            norm=self._norm,
        )
        pixels, grids = (IMAGE_PIXELS, IMAGE_GRIDS) if shown.is_image else (PIXELS, GRIDS)
        return {pixels: patches, grids: torch.tensor([[grid.num_grids, grid.num_rows, grid.num_columns]])}

    def frames_to_keep(self, clip: Clip) -> np.ndarray:
        """Returns the frames as they become patches."""
        size = self._lay_out_clip(clip.view).grid.frame_px(self._tower.patch_size)
        return resize_as_bytes(clip.frames, size=size)

    def encode(self, row: Row, clips: Sequence[ClipTensors], *, with_response: bool) -> dict[str, Tensor]:
        """Encodes one row as a prompt, or with its answer; the tensors of its clips follow one another."""
        with naming(row):
            shown = [self._lay_out_clip(clip.view) for clip in clips]
            layout = build_layout(
                self._encode,
                style=self._style,
                special=self.special,
                clips=shown,
                clip_tags=self._inputs.clip_tags,
                query=row.query,
                history=row.history,
                system=row.system,
                response=row.response if with_response else None,
            )
        positions = row_positions(
            layout.token_type_ids,
            grids=[clip.grid for clip in shown],
            grid_steps=[clip.grid_step for clip in shown],
            text_positions=self._inputs.text_positions,
        )
        return {
            "input_ids": torch.tensor(layout.input_ids),
            "labels": torch.tensor(layout.labels),
            "position_ids": positions,
            "segment_ids": (torch.arange(len(layout)) >= layout.num_prefix_tokens).long(),
            **_join_clips(clips),
        }

    def join(self, rows: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Joins rows of one clip to a sequence that holds the clip once."""
        return group_rows(rows)

    def collate(
        self, sequences: Sequence[Mapping[str, Tensor]], *, padding_side: Literal["left", "right"] = "right"
    ) -> dict[str, Any]:
        """Pads sequences to one batch: with patches and grids of all clips, or their features (1 + levels, N, H)."""
        return collate_sequences(sequences, padding_side=padding_side, padding_id=self.padding_id, clip_dims=CLIP_DIMS)

    def model_inputs(self, batch: Mapping[str, Tensor]) -> dict[str, Any]:
        """Returns what of a batch transformers' own forward takes: positions come first there."""
        inputs = {key: value for key, value in batch.items() if key not in ("labels", "segment_ids", "group_lengths")}
        return {**inputs, "position_ids": inputs["position_ids"].permute(2, 0, 1)}


def _join_clips(clips: Sequence[ClipTensors]) -> dict[str, Tensor]:
    """Returns the tensors of a row's clips by their names; cached features are kept under one name for clips and pictures."""
    joined: dict[str, list[Tensor]] = {}
    for clip in clips:
        named = {FEATURES: IMAGE_FEATURES} if clip.view.is_image else {}
        for key, value in clip.tensors.items():
            joined.setdefault(named.get(key, key), []).append(value)
    return {
        key: values[0] if len(values) == 1 else torch.cat(values, dim=CLIP_DIMS.get(key, 0))
        for key, values in joined.items()
    }
