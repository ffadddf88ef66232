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
from cvft.families.family import Preprocessing, naming, only_clip
from cvft.families.glm4v.family import GLM4V
from cvft.families.glm4v.inputs import Inputs, lay_out_clip
from cvft.families.glm4v.layout import build_layout
from cvft.families.glm4v.sizes import Sizes
from cvft.families.glm4v.tokenizer import SpecialTokens
from cvft.families.network.batching import collate_sequences
from cvft.families.network.grouping import group_rows
from cvft.families.network.patches import preprocess_frames
from cvft.families.network.pixels import resize_as_bytes
from cvft.families.network.positions import row_positions
from cvft.families.norms import CLIP_NORM
from cvft.families.runtime import ClipTensors, ShownFrames

PIXELS, GRIDS, FEATURES = "pixel_values_videos", "video_grid_thw", "vision_features"
"""What a clip is called: patches and their grid by transformers, cached features by us."""


class RowEncoder:
    """Turns rows into inputs; see `cvft.families.runtime.Encoder`.

    Args:
        config: Values of the folder's config.json.
        how: How rows reach the model.
        tokenizer: The folder's tokenizer, for texts that the model writes.
        encode: Its text encoder.
        special: Its control tokens.
    """

    pads_questions = True
    """No layer is recurrent."""

    takes_images = True
    """As clips of one grid: transformers has one token for both, and could not tell them apart in one batch under two names."""

    def __init__(
        self,
        config: Mapping[str, Any],
        how: Preprocessing,
        *,
        tokenizer: Any,
        encode: Callable[[str], list[int]],
        special: SpecialTokens,
    ) -> None:
        self.tokenizer = tokenizer
        self.special = special
        self.max_tokens = max(GLM4V.context_tokens(config), how.max_tokens)
        self._encode = encode
        self._inputs = Inputs.of(how.fields)
        self._tower = Sizes.from_config(config).tower

    @property
    def padding_id(self) -> int:
        """Id that fills up a batch."""
        return self.special.padding

    def clip(self, clip: ShownFrames) -> dict[str, Tensor]:
        """Returns patches (t·h·w, values) fp32 and their grid (1, 3)."""
        grid = lay_out_clip(clip.view, inputs=self._inputs, tower=self._tower).grid
        patches = preprocess_frames(
            clip.frames,
            grid=grid,
            patch_px=self._tower.patch_size,
            temporal_patch=self._tower.temporal_patch_size,
            norm=CLIP_NORM,
        )
        return {PIXELS: patches, GRIDS: torch.tensor([[grid.num_grids, grid.num_rows, grid.num_columns]])}

    def frames_to_keep(self, clip: Clip) -> np.ndarray:
        """Returns the frames as they become patches."""
        grid = lay_out_clip(clip.view, inputs=self._inputs, tower=self._tower).grid
        return resize_as_bytes(clip.frames, size=grid.frame_px(self._tower.patch_size))

    def encode(self, row: Row, clips: Sequence[ClipTensors], *, with_response: bool) -> dict[str, Tensor]:
        """Encodes one row as a prompt, or with its answer."""
        with naming(row):
            clip = only_clip(row, clips)
            shown = None if clip is None else lay_out_clip(clip.view, inputs=self._inputs, tower=self._tower)
            layout = build_layout(
                self._encode,
                special=self.special,
                clip=shown,
                query=row.query,
                history=row.history,
                response=row.response if with_response else None,
                system=row.system or self._inputs.system or None,
            )
        return {
            "input_ids": torch.tensor(layout.input_ids),
            "labels": torch.tensor(layout.labels),
            "position_ids": row_positions(layout.token_type_ids, grids=[] if shown is None else [shown.grid]),
            "segment_ids": (torch.arange(len(layout)) >= layout.num_prefix_tokens).long(),
            **({} if clip is None else clip.tensors),
        }

    def join(self, rows: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Joins rows of one clip to a sequence that holds the clip once."""
        return group_rows(rows)

    def collate(
        self, sequences: Sequence[Mapping[str, Tensor]], *, padding_side: Literal["left", "right"] = "right"
    ) -> dict[str, Any]:
        """Pads sequences to one batch: with patches and grids of all clips, or their features (1, N, H)."""
        return collate_sequences(
            sequences, padding_side=padding_side, padding_id=self.padding_id, clip_dims={FEATURES: 1}
        )

    def model_inputs(self, batch: Mapping[str, Tensor]) -> dict[str, Any]:
        """Returns what of a batch transformers' own forward takes: positions come first there."""
        inputs = {key: value for key, value in batch.items() if key not in ("labels", "segment_ids", "group_lengths")}
        return {**inputs, "position_ids": inputs["position_ids"].permute(2, 0, 1)}
