"""The rule `fps` against what qwen-vl-utils computes: how many frames, and which."""

import numpy as np
import pytest
import torch

from cvft.data.video.sample import Sampling, choose_frames, coverage, spread_evenly
from cvft.errors import DataError


def published_count(num_total: int, video_fps: float, *, fps: float, fewest: int, most: int) -> int:
    """`smart_nframes` of qwen-vl-utils 0.0.14, told in one expression; it refuses what is below 2."""
    fewest, most = -(-fewest // 2) * 2, most // 2 * 2
    return int(min(min(max(num_total / video_fps * fps, fewest), most), num_total) // 2 * 2)


@pytest.mark.parametrize("num_total", [2, 3, 4, 5, 7, 25, 75, 250, 1499, 7200, 15000])
@pytest.mark.parametrize("video_fps", [8.0, 23.976, 25.0, 29.97])
@pytest.mark.parametrize(("fps", "fewest", "most"), [(2.0, 4, 768), (1.0, 4, 24), (0.5, 2, 9), (4.0, 5, 64)])
def test_frames_are_those_of_the_published_rule(num_total, video_fps, fps, fewest, most):
    rule = Sampling("fps", most, fps, fewest)
    times = np.arange(num_total, dtype=np.float32) / np.float32(video_fps)
    chosen = choose_frames(times, avg_fps=video_fps, sampling=rule)
    count = published_count(num_total, video_fps, fps=fps, fewest=fewest, most=most)
    assert chosen == torch.linspace(0, num_total - 1, count).round().long().tolist()


def test_a_clip_of_one_frame_shows_it():
    assert choose_frames(np.zeros(1, dtype=np.float32), avg_fps=25, sampling=Sampling("fps", 768, 2.0, 4)) == [0]


def test_halves_are_rounded_as_torch_rounds_them():
    for num_total in range(2, 400):
        for num_chosen in range(2, min(num_total, 60) + 1):
            theirs = torch.linspace(0, num_total - 1, num_chosen).round().long().tolist()
            assert spread_evenly(num_total, num_chosen) == theirs, (num_total, num_chosen)


def test_a_clip_too_long_for_its_rate_is_reported():
    rule = Sampling("fps", 24, 2.0, 4)
    seen = coverage(spread_evenly(15000, 24), num_frames_total=15000, avg_fps=25, duration_s=600, sampling=rule)
    assert seen.notes == ("clip is 600.0 s: 24 frames of it are 0.04 per second, in place of 2",)
    seen = coverage(spread_evenly(300, 24), num_frames_total=300, avg_fps=25, duration_s=12, sampling=rule)
    assert seen.notes == ()


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"strategy": "fps", "min_frames": 4}, "fps: got `None`, need a number above 0"),
        ({"strategy": "fps", "fps": 0.0, "min_frames": 4}, "fps: got `0.0`, need a number above 0"),
        ({"strategy": "fps", "fps": 2.0, "min_frames": 25}, "min_frames: got `25`, need 1 to max_frames (24)"),
        ({"strategy": "chat", "fps": 2.0}, "fps, min_frames: got `2.0`, `None`, need no such setting with `chat`"),
    ],
)
def test_a_rule_that_cannot_be_carried_out_is_refused(options, problem):
    with pytest.raises(DataError) as caught:
        Sampling(**options)
    assert str(caught.value).splitlines()[1].strip() == problem
