"""The processor: a question and decoded frames become the model's inputs, and rows become a padded batch.

query, history, response + frames uint8 (F, H, W, 3) + time indices
-> input_ids, token_type_ids, labels, position_ids, segment_ids (L,) + pixel_values (F, 3, S, S)   `encode`
-> the same keys (B, L), attention_mask (B, L), pixel_values (T, 3, S, S) of all rows              `collate`
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from cvft.families.cogvlm2_video.layout import TEMPLATES, build_layout, special_tokens
from cvft.families.cogvlm2_video.network.configuration import CogVLM2VideoConfig
from cvft.families.cogvlm2_video.network.load import load_config, load_tokenizer
from cvft.families.cogvlm2_video.network.positions import position_ids_from_types
from cvft.families.cogvlm2_video.network.preprocess import preprocess_frames
from cvft.families.cogvlm2_video.tokenizer import load_encoder
from cvft.families.family import IGNORED_LABEL, Layout
from cvft.families.network.batching import join_padded
from cvft.families.network.grouping import PADDING_SEGMENT
from cvft.weights.folder import ModelFolder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FILLS = {
    "token_type_ids": 0,
    "labels": IGNORED_LABEL,
    "position_ids": 0,
    "segment_ids": PADDING_SEGMENT,
    "attention_mask": 0,
}
"""Value under padding for each sequence of a batch; under the ids it is the padding id."""


class CogVLM2VideoProcessor:
    """Everything between decoded frames and the model's inputs, for one checkpoint and one template.

    Args:
        tokenizer: The checkpoint's tokenizer, for what a model says.
        encode_text: Turns text of a user into ids.
        config: The checkpoint's configuration (ids, image size, tokens per frame).
        template: Name of the prompt template.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        encode_text: Callable[[str], list[int]],
        config: CogVLM2VideoConfig,
        template: str,
    ) -> None:
        self.tokenizer = tokenizer
        self.encode_text = encode_text
        self.template = TEMPLATES[template]
        self.image_size = config.vision.image_size
        self.num_tokens_per_frame = config.vision.num_tokens_per_frame
        self.special = special_tokens(config.to_dict())
        self.max_positions = config.max_position_embeddings

    @classmethod
    def from_pretrained(cls, folder: ModelFolder | Path | str, *, template: str) -> CogVLM2VideoProcessor:
        """Builds the processor of a model folder.

        Args:
            folder: Official, merged or tiny model folder.
            template: Name of the prompt template.

        Raises:
            ModelError: when the folder's configuration or tokenizer cannot be used.
        """
        folder = ModelFolder.of(folder)
        config = load_config(folder)
        return cls(load_tokenizer(folder), encode_text=load_encoder(folder), config=config, template=template)

    def lay_out(
        self,
        query: str,
        *,
        time_indices: Sequence[int] = (),
        history: Sequence[tuple[str, str]] = (),
        response: str | None = None,
    ) -> Layout:
        """Lays out one row without its pixels; see `build_layout` for the arguments."""
        return build_layout(
            self.encode_text,
            template=self.template,
            special=self.special,
            num_tokens_per_frame=self.num_tokens_per_frame,
            time_indices=time_indices,
            query=query,
            history=history,
            response=response,
        )

    def preprocess(self, frames: np.ndarray) -> Tensor:
        """Turns decoded frames (F, H, W, 3) into pixel values (F, 3, S, S) fp32."""
        return preprocess_frames(frames, image_size=self.image_size)

    def encode(
        self,
        query: str,
        *,
        pixel_values: Tensor | None = None,
        vision_features: Tensor | None = None,
        time_indices: Sequence[int] = (),
        history: Sequence[tuple[str, str]] = (),
        response: str | None = None,
    ) -> dict[str, Tensor]:
        """Encodes one row.

        Args:
            query: The question.
            pixel_values: (F, 3, S, S) frames of the row's clip, or None for a text-only row.
            vision_features: (F, P/4, D) what the tower made of them, in their place.
            time_indices: One integer per frame.
            history: Earlier (question, answer) turns.
            response: The answer, for training.

        Returns:
            `input_ids`, `token_type_ids`, `labels`, `position_ids`, `segment_ids` (L,), and `pixel_values` or
            `vision_features` when there is a clip.
        """
        clip = {"pixel_values": pixel_values, "vision_features": vision_features}
        clip_tensors = {key: tensor for key, tensor in clip.items() if tensor is not None}
        assert len(clip_tensors) <= 1, "frames or their features, not both"
        num_frames = sum(len(tensor) for tensor in clip_tensors.values())
        assert num_frames == len(time_indices), f"{num_frames} frames, {len(time_indices)} time indices"
        layout = self.lay_out(query, time_indices=time_indices, history=history, response=response)
        row = {
            "input_ids": torch.tensor(layout.input_ids),
            "token_type_ids": torch.tensor(layout.token_type_ids),
            "labels": torch.tensor(layout.labels),
        }
        row["position_ids"] = position_ids_from_types(row["token_type_ids"][None])[0]
        row["segment_ids"] = (torch.arange(len(layout)) >= layout.num_prefix_tokens).long()
        return row | clip_tensors

    pads_questions = True

    @property
    def padding_id(self) -> int:
        """Id that fills up a batch: the placeholder under vision tokens."""
        return self.special.vision

    def model_inputs(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns what of a batch the model is called with to answer."""
        return {key: value for key, value in batch.items() if key not in ("labels", "segment_ids")}

    def collate(
        self, rows: Sequence[Mapping[str, Tensor]], *, padding_side: Literal["left", "right"] = "right"
    ) -> dict[str, Tensor]:
        """Pads rows to one batch.

        Args:
            rows: Rows as `encode` or `group_rows` returns them; some may have a clip and others none.
            padding_side: "right" for training, "left" for generation.

        Returns:
            The sequences (B, L), `attention_mask` (B, L), and `pixel_values` (T, 3, S, S) or `vision_features` (T, P/4, D)
            when any row has a clip. `segment_ids` are left out where every sequence is a single row.
        """
        fills = {"input_ids": self.padding_id, **FILLS}
        return join_padded(rows, padding_side=padding_side, fills=fills, clip_dims={})
