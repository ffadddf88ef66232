"""The torch half of GLM-4.1V's models: weights, inputs, loss and answers behind `cvft.families.runtime.Runtime`."""

from __future__ import annotations

from typing import Any

import torch

from cvft.dtypes import BY_NAME
from cvft.families.family import Preprocessing
from cvft.families.glm4v.network.encoder import RowEncoder
from cvft.families.glm4v.network.load import load_config, load_model, load_tokenizer, load_tower
from cvft.families.glm4v.tokenizer import load_encoder
from cvft.families.network.runtime import StockRuntime
from cvft.families.network.tower import ClipTower
from cvft.families.runtime import Loading
from cvft.weights.folder import ModelFolder


class Glm4vRuntime(StockRuntime):
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
        """Loads tower and merger, frozen."""
        return ClipTower(load_tower(folder, dtype=getattr(torch, BY_NAME[dtype].torch_name), device=device))


RUNTIME = Glm4vRuntime()
