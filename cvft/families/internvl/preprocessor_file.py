"""How a folder says that frames become pixels: the settings of transformers' video processor. No torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cvft.errors import Problem
from cvft.families.generation_file import HINT
from cvft.families.processor_files import BICUBIC, find_settings
from cvft.json_files import show
from cvft.weights.folder import ModelFolder

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Source: the makers' code that trains and serves the models, and preprocessor_config.json of their checkpoints."""


@dataclass(frozen=True)
class ChannelNorm:
    """What colour channels are normalised with, as fractions of the largest value.

    Args:
        mean: Mean of each channel.
        std: Standard deviation of each channel.
    """

    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD


def read_channel_norm(folder: ModelFolder) -> ChannelNorm:
    """Returns what channels are normalised with; the makers' own where a folder says nothing.

    Args:
        folder: The folder, checked.
    """
    _, values = find_settings(folder)
    assert not isinstance(values, Problem), "a folder that was checked"
    norm = ChannelNorm()
    return ChannelNorm(tuple(values.get("image_mean", norm.mean)), tuple(values.get("image_std", norm.std)))


def check_preprocessor(folder: ModelFolder, *, frame_px: int) -> list[Problem]:
    """Returns a problem for every setting that is not carried out here.

    Args:
        folder: The folder.
        frame_px: Side of a frame, by config.json.
    """
    where, values = find_settings(folder)
    if isinstance(values, Problem):
        return [values]
    wanted: dict[str, tuple[Callable[[Any], bool], str]] = {
        **dict.fromkeys(("do_resize", "do_rescale", "do_normalize"), (lambda value: value is True, "`true`")),
        "do_center_crop": (lambda value: value in (False, None), "`false`"),
        "resample": (lambda value: value == BICUBIC, f"{BICUBIC}, bicubic"),
        "rescale_factor": (lambda value: _is_number(value) and math.isclose(value, 1 / 255), "1/255"),
        "size": (lambda value: _is_square(value, frame_px), f"{frame_px} by {frame_px}, as config.json says"),
        "image_mean": (_are_channels, "three numbers"),
        "image_std": (lambda value: _are_channels(value) and min(value) > 0, "three numbers above 0"),
    }
    return [
        Problem(f"{where}: {key}", show(values[key]), need, HINT)
        for key, (accepts, need) in wanted.items()
        if key in values and not accepts(values[key])
    ]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _are_channels(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(map(_is_number, value))


def _is_square(value: Any, side: int) -> bool:
    return isinstance(value, dict) and (value.get("height"), value.get("width")) == (side, side)
