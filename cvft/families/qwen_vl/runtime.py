"""The torch half of Qwen's video models: weights, inputs, loss and answers behind `cvft.families.family.Runtime`."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cvft.dtypes import BY_NAME
from cvft.families.family import IGNORED_LABEL, Answer, Drawing, LabelLoss, Loading, OnText, Preprocessing
from cvft.families.network.generation import generate_answers
from cvft.families.network.prefixes import KeptPrefixes
from cvft.families.qwen_vl.family import family_of
from cvft.families.qwen_vl.network.encoder import GRIDS, PIXELS, RowEncoder
from cvft.families.qwen_vl.network.load import LoadedTower, load_config, load_model, load_tokenizer, load_tower
from cvft.families.qwen_vl.tokenizer import load_encoder
from cvft.weights.folder import ModelFolder


class ClipTower:
    """Encodes clips for the store of features; see `cvft.families.family.Tower`.

    Args:
        tower: Tower and mergers, frozen.
    """

    def __init__(self, tower: LoadedTower) -> None:
        self.tower = tower

    def __call__(self, clip: Mapping[str, Tensor]) -> Tensor:
        """Turns patches and their grid into features (1 + levels, N, H)."""
        device = self.tower.visual.device
        return self.tower.encode(clip[PIXELS].to(device), clip[GRIDS].to(device)).cpu()


class QwenVLRuntime:
    """See `cvft.families.family.Runtime` for what each answer means."""

    def config(self, folder: ModelFolder) -> Any:
        """Builds transformers' configuration."""
        return load_config(folder)

    def tokenizer(self, folder: ModelFolder) -> Any:
        """Loads the fast tokenizer."""
        return load_tokenizer(folder)

    def load(self, folder: ModelFolder, how: Preprocessing, loading: Loading) -> Any:
        """Loads the weights into transformers' own class."""
        del how
        return load_model(folder, loading)

    def encoder(self, folder: ModelFolder, how: Preprocessing) -> RowEncoder:
        """Builds the encoder of the folder."""
        encode, special = load_encoder(folder)
        return RowEncoder(
            family_of(folder.config),
            folder.config,
            how,
            tokenizer=load_tokenizer(folder),
            encode=encode,
            special=special,
        )

    def loss(
        self, model: Any, batch: Mapping[str, Tensor], *, num_items: Any = None, label_logits_only: bool = True
    ) -> LabelLoss:
        """Runs the model on a batch with labels."""
        outputs = model(**batch, label_logits_only=label_logits_only, num_items_in_batch=num_items)
        return LabelLoss(outputs.loss, outputs.num_right)

    def label_logits(self, model: Any, batch: Mapping[str, Tensor]) -> Tensor:
        """Scores the positions that predict a label, and no others."""
        inputs = {key: value.to(model.device) for key, value in batch.items() if isinstance(value, Tensor)}
        labels = inputs.pop("labels")
        inputs.pop("segment_ids", None)
        inputs["position_ids"] = inputs["position_ids"].permute(2, 0, 1)
        predicts = torch.zeros_like(labels[0], dtype=torch.bool)
        predicts[:-1] = labels[0, 1:] != IGNORED_LABEL
        with torch.inference_mode():
            logits: Tensor = model(**inputs, logits_to_keep=predicts, use_cache=False).logits[0]
        return logits

    def generate(
        self,
        model: Any,
        encoder: Any,
        prompts: Sequence[Mapping[str, Tensor]],
        *,
        max_new_tokens: int | Sequence[int],
        clips: Sequence[Hashable] | None = None,
        on_text: OnText | None = None,
        drawing: Drawing | None = None,
        kept: Any = None,
    ) -> list[Answer]:
        """Answers one batch of prompts."""
        return generate_answers(
            model,
            encoder,
            prompts,
            max_new_tokens=max_new_tokens,
            clips=clips,
            on_text=on_text,
            drawing=drawing,
            kept=kept,
        )

    def keep_prefixes(self, num_bytes: int) -> KeptPrefixes:
        """Returns room for what the model has made of clips."""
        return KeptPrefixes(num_bytes)

    def tower(self, folder: ModelFolder, *, dtype: str, device: str) -> ClipTower:
        """Loads tower and mergers, frozen."""
        return ClipTower(load_tower(folder, dtype=getattr(torch, BY_NAME[dtype].torch_name), device=device))


RUNTIME = QwenVLRuntime()
