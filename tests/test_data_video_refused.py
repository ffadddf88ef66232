"""Clips that are refused: what is no clip, or is cut off, damaged or too large, in the words that are shown."""

import gc
import os
import struct
import sys

import av
import pytest

from cvft.data.video import reader
from cvft.data.video.decode import decode_clip
from cvft.data.video.sample import Sampling
from cvft.data.video.truncation import find_ending
from cvft.errors import ClipError
from tests.fixtures_video import (
    draw_number,
    make_audio,
    make_clip,
    read_number,
)
from tests.video_errors import DECODERS, EVERY, error_of


def make_bad_file(folder, kind):
    path = folder / f"{kind}.mp4"
    if kind == "zero":
        path.touch()
    elif kind == "text":
        path.write_text("no video\n" * 100)
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "audio":
        make_audio(path)
    elif kind == "cover":
        make_audio(path, has_cover=True)
    elif kind == "playlist":
        path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{folder / 'secret.ts'}\n#EXT-X-ENDLIST\n")
        make_clip(folder / "secret.ts")
    elif kind == "png":
        with av.open(str(path), "w", format="image2pipe") as container:
            stream = container.add_stream("png", rate=1)
            stream.width, stream.height, stream.pix_fmt = 160, 96, "rgb24"
            frame = av.VideoFrame.from_ndarray(draw_number(1, width=160, height=96), format="rgb24")
            container.mux(stream.encode(frame))
            container.mux(stream.encode())
    return path


NEED = "need a clip: mp4, mov, mkv, webm, avi, ts, mpg, flv, wmv, ogv or gif\n    hint: "


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("zero", "an empty file (0 bytes), need a video file\n    hint: copy it again"),
        ("text", f"a text file, {NEED}name the clip itself"),
        ("absent", "no such file, need a video file"),
        ("folder", "a folder, need a video file"),
        ("pipe", "a pipe or a device, need a regular video file"),
        ("audio", "no video stream, only audio, need a video stream"),
        ("cover", "no video stream, only audio, need a video stream"),
        ("playlist", f"a playlist, not the clip itself, {NEED}download the clip that it names"),
        (
            "png",
            f"a PNG picture, {NEED}a picture is no clip; name it in `images`, or make one of several: "
            "ffmpeg -framerate 1 -i picture_%03d.png clip.mp4",
        ),
    ],
)
def test_file_that_is_no_clip(tmp_path, kind, message):
    path = make_bad_file(tmp_path, kind)
    assert error_of(path) == f"clip {path.name} has 1 problem\n  {path.name} (decoder `pyav`): got {message}"


@pytest.mark.parametrize("kind", ["zero", "text", "absent", "folder", "pipe", "audio"])
def test_decord_refuses_the_same_files(tmp_path, kind):
    path = make_bad_file(tmp_path, kind)
    assert error_of(path, decoder="decord").startswith(
        f"clip {path.name} has 1 problem\n  {path.name} (decoder `decord`): got "
    )


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("name", ["a.mp4", "streamable.mp4", "fragmented.mp4", "a.mov", "a.mkv"])
def test_clip_that_was_cut_off_is_no_shorter_clip(tmp_path, name, share, decoder):
    flags = {"streamable.mp4": "faststart", "fragmented.mp4": "frag_keyframe+empty_moov"}
    options = {"movflags": flags[name]} if name in flags else {}
    path = make_clip(tmp_path / name, num_frames=40, container_options=options)
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * share)])
    message = error_of(path, decoder=decoder)
    assert f"  {name} (decoder `{decoder}`): got a file that was cut off (at least " in message
    if name == "streamable.mp4":
        num_missing = len(raw) - int(len(raw) * share)
        assert message == (
            f"clip {name} has 1 problem\n"
            f"  {name} (decoder `{decoder}`): got a file that was cut off "
            f"(at least {num_missing:,} bytes are missing), need a whole file\n    hint: copy or download it again"
        )


def test_stray_bytes_and_undeclared_lengths_are_not_missing(tmp_path):
    path = make_clip(tmp_path / "a.mp4", num_frames=4)
    raw = path.read_bytes()
    for stray in (b"\x00" * 5, b"\x00" * 64, b"\x7fjunkjunk"):
        path.write_bytes(raw + stray)
        assert find_ending(path).num_missing == 0
        assert decode_clip(path, sampling=EVERY).num_frames_total == 4
    live = make_clip(tmp_path / "live.mkv", num_frames=4, container_options={"live": "1"})
    assert find_ending(live).num_missing == 0


def test_damaged_frame_is_refused_and_others_are_not(tmp_path):
    path = make_clip(tmp_path / "a.mp4", num_frames=48, gop=12, num_b_frames=0)
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    raw = bytearray(path.read_bytes())
    start, size = packets[13]
    raw[start + 40 : start + size] = bytes(size - 40)
    path.write_bytes(raw)
    assert "got a damaged frame at 0." in error_of(path)
    clip = decode_clip(path, sampling=Sampling("uniform", 2))  # frames 0 and 47 lie in other groups
    assert [read_number(frame) for frame in clip.frames] == [0, 47]


def test_frames_of_two_sizes_are_refused(tmp_path):
    first = make_clip(tmp_path / "a.ts", num_frames=20)
    second = make_clip(tmp_path / "b.ts", num_frames=20, width=128, height=64)
    first.write_bytes(first.read_bytes() + second.read_bytes())
    assert error_of(first) == (
        "clip a.ts has 1 problem\n"
        "  a.ts (decoder `pyav`): got frames of 160 x 96 and of 128 x 64 pixels, need one size\n"
        "    hint: re-encode the clip"
    )


def test_huge_frames_are_refused_before_decoding(tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=1, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 6000, 4000, "yuv420p"
        frame = av.VideoFrame(6000, 4000, "yuv420p")
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert error_of(path) == (
        "clip a.mp4 has 1 problem\n"
        "  a.mp4 (decoder `pyav`): got frames of 6000 x 4000 pixels, need at most 18,874,368 pixels\n"
        "    hint: scale the clip down; the model sees 224 x 224"
    )


@pytest.mark.parametrize("name", ["a.mp4", "a.ts"])
def test_too_many_frames_are_refused(tmp_path, monkeypatch, name):
    monkeypatch.setattr(reader, "MAX_NUM_FRAMES", 30)
    assert "got 31 frames, need at most 30" in error_of(make_clip(tmp_path / name, num_frames=40))


def test_clip_without_frames_is_refused(tmp_path):
    path = make_clip(tmp_path / "a.mp4", num_frames=1)
    raw = bytearray(path.read_bytes())
    for box in (b"stsz", b"stts", b"stsc", b"stco", b"stss", b"ctts"):  # no sample is left in the tables
        place = raw.find(box)
        if place >= 0:
            struct.pack_into(">I", raw, place + (12 if box == b"stsz" else 8), 0)
    path.write_bytes(raw)
    assert "(decoder `pyav`): got " in error_of(path)


def test_decord_times_that_are_none_are_refused(tmp_path):
    path = make_clip(tmp_path / "a.avi", num_frames=40)
    assert error_of(path, decoder="decord", sampling=Sampling("base")) == (
        "clip a.avi has 1 problem\n"
        "  a.avi (decoder `decord`): got no frame with a usable time, need frames with times of 0 s and later\n"
        "    hint: try decoder `pyav`"
    )


def test_unknown_decoder_and_missing_package(tmp_path, monkeypatch):
    path = make_clip(tmp_path / "a.mp4", num_frames=2)
    assert error_of(path, decoder="pyva") == (
        "clip a.mp4 has 1 problem\n"
        "  a.mp4 (decoder `pyva`): got an unknown decoder, need `pyav` or `decord`\n"
        "    hint: did you mean `pyav`?"
    )
    monkeypatch.setitem(sys.modules, "decord", None)
    assert error_of(path, decoder="decord") == (
        "clip a.mp4 has 1 problem\n"
        "  a.mp4 (decoder `decord`): got no such package, need the decord package\n"
        "    hint: pip install decord"
    )


def test_containers_are_closed_after_success_and_failure(tmp_path):
    good = make_clip(tmp_path / "a.mp4", num_frames=8)
    other = make_clip(tmp_path / "a.ts", num_frames=8)
    bad = make_audio(tmp_path / "b.mp4")
    decode_clip(good, sampling=EVERY)
    gc.collect()  # what earlier tests have left is not ours to count
    before = len(os.listdir("/dev/fd"))
    for path in (good, other, bad):
        try:
            decode_clip(path, sampling=EVERY)
        except ClipError as error:
            kept = error  # a kept error keeps its frames, and with them anything that was left open
    assert len(os.listdir("/dev/fd")) <= before
    assert kept.problems
