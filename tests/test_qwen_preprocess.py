"""Pixels of Qwen's video families beyond the goldens: order of patches, memory, and what is refused."""

import numpy as np
import pytest
import torch

from cvft.families.grid import Grid
from cvft.families.network.patches import preprocess_frames
from cvft.families.qwen_vl.norms import HALF_NORM, NORMS

HOW = {"patch_px": 4, "temporal_patch": 2, "norm": HALF_NORM}


def test_patches_of_a_token_lie_side_by_side():
    """A picture whose value says where it is: 4 x 6 patches, so 2 x 3 tokens, in two grids."""
    rows, columns = np.arange(16) // 4, np.arange(24) // 4
    where = (rows[:, None] * 6 + columns[None]).astype(np.uint8)
    frames = np.stack([np.stack([where + 24 * (frame // 2)] * 3, -1) for frame in range(4)])
    patches = preprocess_frames(frames, grid=Grid(2, 4, 6), **HOW)
    assert patches.shape == (48, 3 * 2 * 16)
    values = ((patches * 0.5 + 0.5) * 255).round()
    assert (values == values[:, :1]).all()
    assert values[:, 0].tolist()[:12] == [0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11]
    assert values[24:, 0].tolist() == (values[:24, 0] + 24).tolist()


def test_within_a_patch_colours_come_before_frames_and_frames_before_pixels():
    frames = np.zeros((2, 8, 8, 3), np.uint8)
    frames[1, :, :, 2] = 255
    frames[0, 0, 1, 0] = 255
    first = preprocess_frames(frames, grid=Grid(1, 2, 2), **HOW)[0].view(3, 2, 4, 4)
    assert (first[2, 1] == 1).all()
    assert first[0, 0, 0].tolist() == [-1, 1, -1, -1]
    assert int((first == 1).sum()) == 17


@pytest.mark.parametrize("kind", list(NORMS))
def test_white_and_black_are_what_the_norm_says(kind):
    frames = np.stack([np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 255, np.uint8)])
    patches = preprocess_frames(frames, grid=Grid(1, 2, 2), patch_px=4, temporal_patch=2, norm=NORMS[kind])
    black, white = patches.view(4, 3, 2, 16)[0, :, :, 0].T
    mean, std = (torch.tensor(values) for values in (NORMS[kind].mean, NORMS[kind].std))
    assert torch.allclose(black, -mean / std)
    assert torch.allclose(white, (1 - mean) / std)


@pytest.mark.parametrize("num_frames", [1, 3])
def test_the_last_frame_is_repeated(num_frames):
    frames = np.random.default_rng(0).integers(0, 256, (num_frames, 20, 30, 3), dtype=np.uint8)
    grid = Grid((num_frames + 1) // 2, 4, 6)
    longer = np.concatenate([frames, frames[-1:]])
    assert torch.equal(preprocess_frames(frames, grid=grid, **HOW), preprocess_frames(longer, grid=grid, **HOW))


def test_frames_at_a_time_are_the_same_bits_as_all_at_once():
    frames = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (6, 37, 53, 3), dtype=np.uint8))
    resized = torch.nn.functional.interpolate(
        frames.permute(0, 3, 1, 2), size=(16, 24), mode="bicubic", antialias=True, align_corners=False
    )
    whole = ((resized.float() - 127.5) / 127.5).view(3, 2, 3, 2, 2, 4, 3, 2, 4)
    whole = whole.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(72, -1)
    assert torch.equal(preprocess_frames(frames, grid=Grid(3, 4, 6), **HOW), whole)


def test_a_readers_view_of_its_memory_serves():
    """Decoded frames may be a view with strides of its own."""
    frames = np.random.default_rng(0).integers(0, 256, (4, 20, 60, 3), dtype=np.uint8)[:, :, ::2]
    assert torch.equal(
        preprocess_frames(frames, grid=Grid(2, 4, 6), **HOW),
        preprocess_frames(frames.copy(), grid=Grid(2, 4, 6), **HOW),
    )


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        (np.zeros((2, 8, 8, 3), np.float32), "need uint8"),
        (np.zeros((8, 8, 3), np.uint8), "need uint8"),
        (np.zeros((2, 3, 8, 8), np.uint8), "need uint8"),
        (np.zeros((5, 8, 8, 3), np.uint8), "got 5, need those of 1 grids of 2"),
    ],
)
def test_other_frames_are_refused(frames, expected):
    with pytest.raises(ValueError, match=expected):
        preprocess_frames(frames, grid=Grid(1, 2, 2), **HOW)
