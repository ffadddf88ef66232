"""The tower alone of a class of transformers: for features to cache, without the decoder's weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel

from cvft.families.family import Family
from cvft.families.network.grid_scoring import encode_clip
from cvft.families.weight_files import read_model_shards
from cvft.weights.folder import ModelFolder
from cvft.weights.shards import Shard

VISUAL = "model.visual."
"""What the names of its tensors start with in the loaded model."""


class LoadedTower(nn.Module):
    """Tower and mergers of a folder, frozen, called as the whole model calls them.

    Args:
        stock: The class of the whole model.
        config: transformers' configuration.
    """

    def __init__(self, stock: type[PreTrainedModel], config: Any) -> None:
        super().__init__()
        with torch.device("meta"):
            whole: Any = stock(config)
        self._whole = type(whole.model)
        self.config = config
        with _default_dtype(torch.float32):
            self.visual = type(whole.model.visual)(whole.model.visual.config)

    def get_video_features(self, pixels: Tensor, grid: Tensor, **kwargs: Any) -> Any:
        """Runs transformers' own method with this tower."""
        return self._whole.get_video_features(self, pixels, grid, **kwargs)

    def get_image_features(self, pixels: Tensor, grid: Tensor, **kwargs: Any) -> Any:
        """Runs transformers' own method with this tower; called by the one above."""
        return self._whole.get_image_features(self, pixels, grid, **kwargs)

    def encode(self, pixels: Tensor, grid: Tensor) -> Tensor:
        """Encodes one clip.

        Args:
            pixels: (t·h·w, values).
            grid: (1, 3).

        Returns:
            (1 + levels, N, H).
        """
        return encode_clip(self, pixels, grid)


class ClipTower:
    """Encodes clips of patches for the store of features; see `cvft.families.runtime.Tower`.

    Args:
        tower: Tower and mergers, frozen.
    """

    def __init__(self, tower: LoadedTower) -> None:
        self.tower = tower

    def __call__(self, clip: Mapping[str, Tensor]) -> Tensor:
        """Turns patches and their grid into features (1 + levels, N, H); those of a picture have other names."""
        names = (
            ("pixel_values", "image_grid_thw") if "pixel_values" in clip else ("pixel_values_videos", "video_grid_thw")
        )
        pixels, grid = (clip[name].to(self.tower.visual.device) for name in names)
        return self.tower.encode(pixels, grid).cpu()


def load_visual(
    stock: type[PreTrainedModel],
    folder: ModelFolder,
    family: Family,
    *,
    config: Any,
    dtype: torch.dtype,
    device: str,
) -> LoadedTower:
    """Loads a folder's tower and mergers, and nothing else.

    Args:
        stock: The class of the whole model.
        folder: The folder.
        family: Its family.
        config: transformers' configuration.
        dtype: Precision of the weights in memory.
        device: Where to put them.
    """
    config.vision_config._attn_implementation = "sdpa"
    tower = LoadedTower(stock, config)
    weights = {}
    for shard in read_model_shards(folder, family):
        with safe_open(shard.path, framework="pt") as file:
            for entry in shard.entries:
                name = family.module_of(entry.name)
                if name is not None and name.startswith(VISUAL):
                    weights[name.removeprefix(VISUAL)] = file.get_tensor(entry.name).to(dtype)
    tower.visual.load_state_dict(weights)
    return tower.to(dtype).to(device).requires_grad_(False).eval()


def load_without_decoder(
    stock: type[PreTrainedModel],
    shards: Sequence[Shard],
    *,
    module_of: Callable[[str], str],
    config: Any,
    decoder: str,
    dtype: torch.dtype,
    device: str,
) -> Any:
    """Loads everything of a model but its decoder and its output layer.

    Args:
        stock: The class of the whole model.
        shards: Its weight files.
        module_of: Name in the loaded model of a tensor's name in the files.
        config: transformers' configuration.
        decoder: Where the decoder lies in the loaded model.
        dtype: Precision of the weights in memory.
        device: Where to put them.

    Returns:
        transformers' model without its decoder, frozen.
    """
    config.vision_config._attn_implementation = "sdpa"
    with torch.device("meta"):
        whole: Any = stock(config)
    tower = whole.model
    setattr(tower, decoder.removeprefix("model."), None)
    weights = {}
    for shard in shards:
        with safe_open(shard.path, framework="pt") as file:
            for entry in shard.entries:
                name = module_of(entry.name)
                if not name.startswith((f"{decoder}.", "lm_head.")):
                    weights[name.removeprefix("model.")] = file.get_tensor(entry.name).to(dtype)
    tower.load_state_dict(weights, assign=True)
    for module in tower.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_meta:  # computed and in no file: taken from another module of the same kind
                setattr(module, name, getattr(type(module)(module.config), name))
    return tower.to(device).requires_grad_(False).eval()


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
