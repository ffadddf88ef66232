"""The torch half of CogVLM2-Video: weights, inputs, loss and answers behind `cvft.families.runtime.Runtime`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from cvft.data.rows import Row
from cvft.data.video.decode import Clip
from cvft.dtypes import BY_NAME
from cvft.families.cogvlm2_video.layout import NO_IMAGES, check_place, time_indices
from cvft.families.cogvlm2_video.network.load import load_config, load_model, load_tokenizer, load_tower
from cvft.families.cogvlm2_video.network.preprocess import decoded_frames, frames_to_keep
from cvft.families.cogvlm2_video.network.processor import CogVLM2VideoProcessor
from cvft.families.cogvlm2_video.network.vision import VisionTower
from cvft.families.family import IGNORED_LABEL, Preprocessing, naming, only_clip
from cvft.families.network.answering import Batcher
from cvft.families.network.grouping import group_rows
from cvft.families.network.runtime import AnswersPrompts
from cvft.families.runtime import ClipTensors, LabelLoss, Loading, ShownFrames
from cvft.weights.folder import ModelFolder


class RowEncoder:
    """Turns rows into inputs; see `cvft.families.runtime.Encoder`.

    Args:
        processor: The processor of the checkpoint and its template.
        sampling: Name of the rule that chose the frames.
        max_row_tokens: Longest row that was trained on; longer answers than the model was made for may be asked for up to it.
    """

    takes_images = False

    def __init__(self, processor: CogVLM2VideoProcessor, *, sampling: str, max_row_tokens: int = 0) -> None:
        self.processor = processor
        self.sampling = sampling
        self.tokenizer = processor.tokenizer
        self.max_tokens = max(processor.max_positions, max_row_tokens)

    def frames_to_keep(self, clip: Clip) -> np.ndarray:
        """Returns the rows and columns that are seen of decoded frames."""
        return frames_to_keep(clip.frames, image_size=self.processor.image_size)

    def clip(self, clip: ShownFrames) -> dict[str, Tensor]:
        """Returns `pixel_values` (F, 3, S, S) fp32."""
        size_px = clip.view.height_px, clip.view.width_px
        frames = decoded_frames(clip.frames, size_px=size_px, image_size=self.processor.image_size)
        return {"pixel_values": self.processor.preprocess(frames)}

    def encode(self, row: Row, clips: Sequence[ClipTensors], *, with_response: bool) -> dict[str, Tensor]:
        """Encodes one row as a prompt, or with its answer."""
        with naming(row):
            clip = only_clip(row, clips, no_images=NO_IMAGES)
            tensors: Mapping[str, Tensor] = {} if clip is None else clip.tensors
            check_place(self.processor.template, history=row.history, system=row.system)
            return self.processor.encode(
                row.query,
                pixel_values=tensors.get("pixel_values"),
                vision_features=tensors.get("vision_features"),
                time_indices=() if clip is None else time_indices(clip.view.timestamps_s, sampling=self.sampling),
                history=row.history,
                response=row.response if with_response else None,
            )

    def join(self, rows: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Joins rows of one clip to a sequence that holds the clip once."""
        return group_rows(rows)

    def collate(
        self, sequences: Sequence[Mapping[str, Tensor]], *, padding_side: Literal["left", "right"] = "right"
    ) -> dict[str, Tensor]:
        """Pads sequences to one batch."""
        return self.processor.collate(sequences, padding_side=padding_side)


class ClipTower:
    """Encodes clips for the store of features; see `cvft.families.runtime.Tower`.

    Args:
        tower: Tower and projector, frozen.
        dtype: Precision of the computation.
        device: Where the tower is.
    """

    def __init__(self, tower: VisionTower, *, dtype: torch.dtype, device: str) -> None:
        self.tower = tower
        self.dtype = dtype
        self.device = device

    def __call__(self, clip: Mapping[str, Tensor]) -> Tensor:
        """Turns `pixel_values` (F, 3, S, S) into features (F, P/4, D)."""
        return self.tower.encode(clip["pixel_values"].to(self.device, self.dtype)).cpu()


class CogVLM2VideoRuntime(AnswersPrompts):
    """See `cvft.families.runtime.Runtime` for what each answer means."""

    def config(self, folder: ModelFolder) -> Any:
        """Builds the configuration, without `auto_map`."""
        return load_config(folder)

    def tokenizer(self, folder: ModelFolder) -> Any:
        """Loads the fast tokenizer; its padding id is the one that config.json states."""
        tokenizer = load_tokenizer(folder)
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(folder.config["pad_token_id"])
        return tokenizer

    def load(self, folder: ModelFolder, how: Preprocessing, loading: Loading) -> Any:
        """Loads the weights by name."""
        model: Any = load_model(
            folder,
            dtype=getattr(torch, BY_NAME[loading.dtype].torch_name),
            attention=loading.attention,
            rope_precision=str(how.fields["rope_precision"]),
            device_map=loading.device_map,
            with_tower=loading.with_tower,
            quantize=loading.quantize,
            embeddings_on_cpu=loading.embeddings_on_cpu,
        )
        model.model.runs_tower_always = loading.runs_tower_always
        return model

    def encoder(self, folder: ModelFolder, how: Preprocessing) -> RowEncoder:
        """Builds the processor of the folder and template."""
        processor = CogVLM2VideoProcessor.from_pretrained(folder, template=how.template)
        return RowEncoder(processor, sampling=how.decode.sampling.strategy, max_row_tokens=how.max_tokens)

    def loss(
        self, model: Any, batch: Mapping[str, Tensor], *, num_items: Any = None, label_logits_only: bool = True
    ) -> LabelLoss:
        """Runs the model on a batch with labels."""
        outputs = model(**batch, label_logits_only=label_logits_only, num_items_in_batch=num_items)
        return LabelLoss(outputs.loss, outputs.num_right)

    def label_logits(self, model: Any, batch: Mapping[str, Tensor]) -> Tensor:
        """Scores the positions that predict a label, and no others."""
        inputs = {key: value.to(model.device) for key, value in batch.items()}
        labels = inputs.pop("labels")
        predicts = torch.zeros_like(labels[0], dtype=torch.bool)
        predicts[:-1] = labels[0, 1:] != IGNORED_LABEL
        with torch.inference_mode():
            logits: Tensor = model(**inputs, logits_to_keep=predicts).logits[0]
        return logits

    def batcher(self, encoder: Any) -> Batcher:
        """Returns the processor."""
        processor: Batcher = encoder.processor
        return processor

    def tower(self, folder: ModelFolder, *, dtype: str, device: str) -> ClipTower:
        """Loads tower and projector, frozen."""
        torch_dtype = getattr(torch, BY_NAME[dtype].torch_name)
        return ClipTower(load_tower(folder, dtype=torch_dtype, device=device), dtype=torch_dtype, device=device)


RUNTIME = CogVLM2VideoRuntime()
