"""The torch half of InternVL's models: weights, inputs, loss and answers behind `cvft.families.runtime.Runtime`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from cvft.dtypes import BY_NAME
from cvft.families.family import Preprocessing
from cvft.families.internvl.network.encoder import PIXELS, RowEncoder
from cvft.families.internvl.network.load import load_config, load_model, load_tokenizer, load_tower
from cvft.families.internvl.network.models import encode_clip
from cvft.families.internvl.tokenizer import load_encoder
from cvft.families.network.runtime import StockRuntime
from cvft.families.runtime import Loading
from cvft.weights.folder import ModelFolder


class ClipTower:
    """Encodes clips for the store of features; see `cvft.families.runtime.Tower`.

    Args:
        tower: Tower and projector, frozen.
    """

    def __init__(self, tower: Any) -> None:
        self.tower = tower

    def __call__(self, clip: Mapping[str, Tensor]) -> Tensor:
        """Turns frames into features (T, N, H)."""
        return encode_clip(self.tower, clip[PIXELS].to(self.tower.device)).cpu()


class InternVLRuntime(StockRuntime):
    """See `cvft.families.runtime.Runtime` for what each answer means."""

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
        return RowEncoder(folder.config, how, tokenizer=load_tokenizer(folder), encode=encode, special=special)

    def tower(self, folder: ModelFolder, *, dtype: str, device: str) -> ClipTower:
        """Loads tower and projector, frozen."""
        return ClipTower(load_tower(folder, dtype=getattr(torch, BY_NAME[dtype].torch_name), device=device))


RUNTIME = InternVLRuntime()
