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
from cvft.families.family import ClipTensors, Preprocessing, ShownFrames, naming
from cvft.families.network.batching import collate_sequences
from cvft.families.network.grouping import group_rows
from cvft.families.network.patches import preprocess_frames
from cvft.families.network.pixels import resize_to_keep
from cvft.families.network.positions import row_positions
from cvft.families.qwen_vl.family import QwenVL
from cvft.families.qwen_vl.inputs import ClipLayout, Inputs, lay_out_clip
from cvft.families.qwen_vl.layout import build_layout
from cvft.families.qwen_vl.norms import NORMS
from cvft.families.qwen_vl.sizes import Sizes
from cvft.families.qwen_vl.tokenizer import SpecialTokens

PIXELS, GRIDS, FEATURES = "pixel_values_videos", "video_grid_thw", "vision_features"
IMAGE_PIXELS, IMAGE_GRIDS, IMAGE_FEATURES = "pixel_values", "image_grid_thw", "image_features"
"""What a clip, and a picture, is called: patches and their grid by transformers, cached features by us."""


class RowEncoder:
    """Turns rows into inputs; see `cvft.families.family.Encoder`.

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

    def resized(self, clip: Clip) -> np.ndarray:
        """Returns the frames (T, h, w, 3) uint8 at the size at which they become patches."""
        size = self._lay_out_clip(clip.view).grid.frame_px(self._tower.patch_size)
        return resize_to_keep(clip.frames, size=size)

    def frames_to_keep(self, clip: Clip) -> np.ndarray:
        """Returns the frames as they become patches."""
        return self.resized(clip)

    def encode(self, row: Row, clip: ClipTensors | None, *, with_response: bool) -> dict[str, Tensor]:
        """Encodes one row as a prompt, or with its answer."""
        with naming(row):
            shown = None if clip is None else self._lay_out_clip(clip.view)
            layout = build_layout(
                self._encode,
                style=self._style,
                special=self.special,
                grid=None if shown is None else shown.grid,
                seconds=() if shown is None else shown.seconds,
                clip_tags=self._inputs.clip_tags,
                is_image=shown is not None and shown.is_image,
                query=row.query,
                history=row.history,
                system=row.system,
                response=row.response if with_response else None,
            )
        positions = row_positions(
            layout.token_type_ids,
            grid=None if shown is None else shown.grid,
            grid_step=0.0 if shown is None else shown.grid_step,
            text_positions=self._inputs.text_positions,
        )
        return {
            "input_ids": torch.tensor(layout.input_ids),
            "labels": torch.tensor(layout.labels),
            "position_ids": positions,
            "segment_ids": (torch.arange(len(layout)) >= layout.num_prefix_tokens).long(),
            **({} if clip is None else _clip_tensors(clip)),
        }

    def join(self, rows: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Joins rows of one clip to a sequence that holds the clip once."""
        return group_rows(rows)

    def collate(
        self, sequences: Sequence[Mapping[str, Tensor]], *, padding_side: Literal["left", "right"] = "right"
    ) -> dict[str, Any]:
        """Pads sequences to one batch: with patches and grids of all clips, or their features (1 + levels, N, H)."""
        return collate_sequences(
            sequences, padding_side=padding_side, padding_id=self.padding_id, clip_dims={FEATURES: 1, IMAGE_FEATURES: 1}
        )

    def model_inputs(self, batch: Mapping[str, Tensor]) -> dict[str, Any]:
        """Returns what of a batch transformers' own forward takes: positions come first there."""
        inputs = {key: value for key, value in batch.items() if key not in ("labels", "segment_ids", "group_lengths")}
        return {**inputs, "position_ids": inputs["position_ids"].permute(2, 0, 1)}


def _clip_tensors(clip: ClipTensors) -> dict[str, Tensor]:
    """Returns a clip's tensors by their names; cached features are kept under one name for clips and pictures."""
    named = {FEATURES: IMAGE_FEATURES} if clip.view.is_image else {}
    return {named.get(key, key): value for key, value in clip.tensors.items()}
