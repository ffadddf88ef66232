"""The resize against pytorchvideo's own `short_side_scale`, the function that the published demo calls."""

import ast
import importlib.metadata
from pathlib import Path

import numpy as np
import pytest
import torch

from cvft.families.cogvlm2_video.frames import resized_size, seen_pixels
from cvft.families.cogvlm2_video.network.preprocess import (
    CLIP_MEAN,
    CLIP_STD,
    decoded_frames,
    frames_to_keep,
    preprocess_frames,
)


def load_short_side_scale():
    """Takes the function out of its module: the module imports torchvision, which need not fit this torch."""
    files = importlib.metadata.files("pytorchvideo") or []
    (found,) = [file for file in files if file.as_posix() == "pytorchvideo/transforms/functional.py"]
    tree = ast.parse(Path(str(found.locate())).read_text())
    (function,) = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "short_side_scale"]
    function.decorator_list = []
    namespace = {"torch": torch, "math": __import__("math"), "np": np}
    future = ast.ImportFrom(module="__future__", names=[ast.alias(name="annotations")], level=0)
    module = ast.fix_missing_locations(ast.Module(body=[future, function], type_ignores=[]))
    exec(compile(module, found.as_posix(), "exec"), namespace)
    return namespace["short_side_scale"]


@pytest.mark.parametrize(
    ("height", "width"), [(272, 640), (640, 272), (144, 176), (720, 1280), (224, 224), (225, 500), (61, 37), (37, 61)]
)
@pytest.mark.parametrize("image_size", [28, 56, 224])
def test_pixels_equal_pytorchvideo_after_normalising(height, width, image_size):
    frames = torch.from_numpy(
        np.random.default_rng(height * width).integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    )
    x = frames.permute(3, 0, 1, 2).float() / 255.0
    mean, std = (torch.tensor(values).view(3, 1, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    scaled = load_short_side_scale()((x - mean) / std, size=image_size)
    assert tuple(scaled.shape[-2:]) == resized_size(height, width, image_size=image_size)
    top, left = (round((side - image_size) / 2.0) for side in scaled.shape[-2:])
    want = scaled[..., top : top + image_size, left : left + image_size].transpose(0, 1)
    # equal, bit for bit: the same kernel with the same arguments
    assert torch.equal(preprocess_frames(frames, image_size=image_size), want)


@pytest.mark.parametrize(
    ("height", "width"),
    [(272, 640), (640, 272), (144, 176), (720, 1280), (1080, 1920), (672, 672), (225, 500), (61, 37), (1121, 3361)],
)
@pytest.mark.parametrize("image_size", [28, 56, 224])
def test_pixels_that_are_kept_of_frames_give_the_bits_of_all_of_them(height, width, image_size):
    frames = np.random.default_rng(height * width).integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    kept = frames_to_keep(frames, image_size=image_size)
    assert kept.shape[1:3] == tuple(map(len, seen_pixels(height, width, image_size=image_size)))
    assert max(kept.shape[1:3]) <= 3 * image_size
    back = decoded_frames(kept, size_px=(height, width), image_size=image_size)
    live = preprocess_frames(frames, image_size=image_size)
    assert torch.equal(preprocess_frames(back, image_size=image_size), live)
    if height > 3 * image_size:  # nothing more than that is kept, and all of it counts
        blind = preprocess_frames(
            decoded_frames(255 - kept, size_px=(height, width), image_size=image_size), image_size=image_size
        )
        assert not torch.equal(blind, live)


def test_other_input_is_refused():
    with pytest.raises(ValueError, match=r"frames: got torch.float32 \(1, 8, 8, 3\), need uint8"):
        preprocess_frames(torch.zeros(1, 8, 8, 3), image_size=28)
