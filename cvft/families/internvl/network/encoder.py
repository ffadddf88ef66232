"""Rows become inputs: the layout of a row, its positions, and its clip as pixels or as cached features.

Row + ClipInputs -> input_ids (L), labels (L), position_ids (L), segment_ids (L), pixels or features -> groups -> batch (B, L)
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
from cvft.families.internvl.family import INTERNVL
from cvft.families.internvl.inputs import Inputs, read_channels
from cvft.families.internvl.layout import NO_IMAGES, build_layout
from cvft.families.internvl.sizes import Sizes
from cvft.families.internvl.tokenizer import SpecialTokens
from cvft.families.network.batching import collate_sequences
from cvft.families.network.grouping import group_rows
from cvft.families.network.pixels import as_frames, resize_and_norm, resize_as_bytes
from cvft.families.norms import PixelNorm
from cvft.families.runtime import ClipTensors, ShownFrames

PIXELS = "pixel_values"
"""What transformers calls a clip's frames."""


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

    takes_images = False

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
        self.max_tokens = max(INTERNVL.context_tokens(config), how.max_tokens)
        self._encode = encode
        self._inputs = Inputs.of(how.fields)
        self._norm = PixelNorm(read_channels(self._inputs.pixel_mean), read_channels(self._inputs.pixel_std))
        self._tokens_per_frame = Sizes.from_config(config).tower.tokens_per_frame

    @property
    def padding_id(self) -> int:
        """Id that fills up a batch."""
        return self.special.padding

    def clip(self, clip: ShownFrames) -> dict[str, Tensor]:
        """Returns pixels (T, 3, side, side) fp32."""
        side = self._inputs.frame_px
        return {PIXELS: preprocess_frames(clip.frames, side_px=side, norm=self._norm)}

    def frames_to_keep(self, clip: Clip) -> np.ndarray:
        """Returns the frames at the size that the tower takes."""
        return resize_as_bytes(clip.frames, size=(self._inputs.frame_px, self._inputs.frame_px))

    def encode(self, row: Row, clips: Sequence[ClipTensors], *, with_response: bool) -> dict[str, Tensor]:
        """Encodes one row as a prompt, or with its answer."""
        with naming(row):
            clip = only_clip(row, clips, no_images=NO_IMAGES)
            layout = build_layout(
                self._encode,
                special=self.special,
                num_frames=0 if clip is None else len(clip.view.frame_indices),
                tokens_per_frame=self._tokens_per_frame,
                query=row.query,
                history=row.history,
                response=row.response if with_response else None,
                system=row.system or self._inputs.system or None,
            )
        positions = torch.arange(len(layout))
        return {
            "input_ids": torch.tensor(layout.input_ids),
            "labels": torch.tensor(layout.labels),
            "position_ids": positions,
            "segment_ids": (positions >= layout.num_prefix_tokens).long(),
            **({} if clip is None else clip.tensors),
        }

    def join(self, rows: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Joins rows of one clip to a sequence that holds the clip once."""
        return group_rows(rows)

    def collate(
        self, sequences: Sequence[Mapping[str, Tensor]], *, padding_side: Literal["left", "right"] = "right"
    ) -> dict[str, Any]:
        """Pads sequences to one batch: with the frames of all clips, or their features (T, N, H)."""
        return collate_sequences(sequences, padding_side=padding_side, padding_id=self.padding_id, clip_dims={})

    def model_inputs(self, batch: Mapping[str, Tensor]) -> dict[str, Any]:
        """Returns what of a batch transformers' own forward takes."""
        return {key: value for key, value in batch.items() if key not in ("labels", "segment_ids", "group_lengths")}


def preprocess_frames(frames: Any, *, side_px: int, norm: PixelNorm) -> Tensor:
    """Turns decoded frames into pixels, one at a time: the same bits as all at once, at a fraction of the memory.

    Args:
        frames: (T, H, W, 3) uint8 RGB.
        side_px: Side that they are resized to, whatever their shape.
        norm: What channels are normalised with.

    Returns:
        (T, 3, side, side) fp32.

    Source:
        `InternVLVideoProcessor` of transformers 4.57.6; golden vectors hold it, bit for bit.
    """
    frames = as_frames(frames)
    pixels = torch.empty(len(frames), 3, side_px, side_px)
    for number in range(len(frames)):
        pixels[number] = resize_and_norm(frames[number : number + 1], size=(side_px, side_px), norm=norm)[0]
    return pixels
