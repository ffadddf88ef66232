"""What players show is what the model sees: times, hidden frames, mirrors, HDR; and what a clip may cost."""

import struct
from fractions import Fraction

import av
import numpy as np
import pytest

from cvft.data.video.decode import decode_clip
from cvft.data.video.hdr import find_tone_map
from cvft.data.video.process import ClipInfo, DecodeProcess
from cvft.data.video.reader import check_frame_size, check_memory, check_work
from cvft.data.video.sample import Sampling
from cvft.errors import ClipError
from cvft.plan.notes import _note_clips
from tests.fixtures_video import cut_without_decoding, draw_number, make_clip, read_number
from tests.generated_clips import show_by_libraries, turn

EVERY = Sampling("uniform", 1000)


def copy_packets(source, target, *, times=lambda pts, dts: (pts, dts)):
    """Copies without decoding, from decode time 0 on; `times` may change both times of a packet."""
    with av.open(str(source)) as reader, av.open(str(target), "w") as writer:
        copy = writer.add_stream_from_template(reader.streams.video[0])
        first = None
        for packet in reader.demux(video=0):
            if packet.dts is not None:
                first = packet.dts if first is None else first
                packet.pts, packet.dts = times(packet.pts - first, packet.dts - first)
                packet.stream = copy
                writer.mux(packet)
    return target


# --- times


@pytest.mark.parametrize("num_b_frames", [0, 2, 3])
@pytest.mark.parametrize("fps", [10, 30, Fraction(25, 2)], ids=str)
def test_h264_in_avi_has_its_length_and_its_seconds(tmp_path, fps, num_b_frames):
    # its header counts at twice the rate, as ffmpeg writes it: every other chunk is empty
    num_frames, base = round(12 * fps), 1 / Fraction(2 * fps)
    times = [2 * index for index in range(num_frames)]
    options = {"num_frames": num_frames, "fps": fps, "num_b_frames": num_b_frames, "gop": 40}
    path = make_clip(tmp_path / "a.avi", times=times, time_base=base, **options)
    with av.open(str(path)) as container:
        assert container.streams.video[0].average_rate == 2 * fps
    clip = decode_clip(path, sampling=EVERY)
    assert [read_number(frame) for frame in clip.frames] == list(range(num_frames))
    assert clip.timestamps_s == pytest.approx(np.arange(num_frames) / float(fps), abs=1e-4)
    assert clip.duration_s == pytest.approx(12, abs=1e-3)
    assert clip.avg_fps == pytest.approx(float(fps), rel=1e-3)
    chat = decode_clip(tmp_path / "a.avi", sampling=Sampling())
    assert chat.timestamps_s[:12] == pytest.approx(np.arange(12), abs=0.5 / float(fps) + 1e-4)


@pytest.mark.parametrize("begin", [0, 7])
@pytest.mark.parametrize("name", ["a.mkv", "a.mp4", "a.ts", "a.webm"])
def test_slow_clip_with_a_start_time_begins_at_second_0(tmp_path, name, begin):
    options = {"codec": "libvpx", "num_b_frames": 0} if name == "a.webm" else {}
    fps = Fraction(1, 10) if name != "a.ts" else Fraction(1, 2)
    times = [index + begin for index in range(12)]
    path = make_clip(tmp_path / name, num_frames=12, fps=fps, times=times, time_base=1 / fps, **options)
    clip = decode_clip(path, sampling=EVERY)
    assert clip.timestamps_s == pytest.approx(np.arange(12) / float(fps), abs=0.01)
    assert [read_number(frame) for frame in clip.frames] == list(range(12))
    assert clip.duration_s == pytest.approx(12 / float(fps), rel=0.01)


def test_clock_of_a_broadcast_that_starts_anew_goes_on(tmp_path):
    first = make_clip(tmp_path / "a.ts", num_frames=20)
    second = make_clip(tmp_path / "b.ts", num_frames=20, numbers_from=20)
    first.write_bytes(first.read_bytes() + second.read_bytes())
    clip = decode_clip(first, sampling=EVERY)
    assert [read_number(frame) for frame in clip.frames] == list(range(40))
    assert clip.timestamps_s == pytest.approx(np.arange(40) / 25, abs=1e-3)


def test_mp4_made_of_an_avi_shows_its_frames_in_order(tmp_path):
    """Its packets carry decode times as presentation times: sorted by them, frames would jump to and fro."""
    source = make_clip(tmp_path / "a.mp4", num_frames=40)
    copy_packets(source, tmp_path / "b.mp4", times=lambda pts, dts: (dts, dts))
    clip = decode_clip(tmp_path / "b.mp4", sampling=EVERY)
    assert [read_number(frame) for frame in clip.frames] == list(range(40))
    assert clip.timestamps_s == pytest.approx(np.arange(40) / 25, abs=1e-3)


ALT_REF = {"deadline": "good", "cpu-used": "5", "auto-alt-ref": "1", "lag-in-frames": "16"}


@pytest.mark.parametrize(
    ("codec", "start"), [*(("libvpx-vp9", start) for start in (0, 3, 11, 26, 31)), ("libvpx", 0), ("libvpx", 25)]
)
def test_cut_with_hidden_frames_shows_what_players_show(tmp_path, codec, start):
    source = make_clip(tmp_path / "a.webm", num_frames=50, codec=codec, gop=25, num_b_frames=0, options=ALT_REF)
    name = "cut.mp4" if codec == "libvpx-vp9" else "cut.webm"
    path = cut_without_decoding(source, tmp_path / name, start_frame=start, gop=25, fps=25)
    shown = show_by_libraries(path)
    clip = decode_clip(path, sampling=EVERY)
    assert len(shown.frames) > 10
    assert clip.num_frames_total == len(shown.frames)
    assert clip.timestamps_s == pytest.approx(shown.times_s, abs=2e-3)
    assert np.array_equal(clip.frames, np.stack(shown.frames))


# --- pictures


@pytest.mark.parametrize(
    ("matrix", "change"),
    [
        ((-1, 0, 0, 1), lambda image: image[:, :, ::-1]),
        ((1, 0, 0, -1), lambda image: image[:, ::-1]),
        ((0, 1, 1, 0), lambda image: image.swapaxes(1, 2)),
        ((0, -1, -1, 0), lambda image: image.swapaxes(1, 2)[:, ::-1, ::-1]),
        ((2, 0, 0, 2), lambda image: image),
    ],
    ids=["mirrored", "upside_down", "transposed", "transposed_back", "enlarged"],
)
def test_mirrored_clip_is_mirrored(tmp_path, matrix, change):
    path = make_clip(tmp_path / "a.mp4", num_frames=4)
    plain = decode_clip(path, sampling=EVERY).frames
    turn(path, matrix)
    assert np.array_equal(decode_clip(path, sampling=EVERY).frames, change(plain))
    if matrix != (2, 0, 0, 2):
        with pytest.raises(ClipError, match="got mirrored frames, need frames that are shown as they are stored"):
            decode_clip(path, sampling=EVERY, decoder="decord")


def test_turn_by_an_odd_angle_is_refused(tmp_path):
    path = make_clip(tmp_path / "a.mp4", num_frames=2)
    raw = bytearray(path.read_bytes())
    side = round(2**16 * 0.5**0.5)
    struct.pack_into(">9i", raw, raw.index(b"tkhd") + 44, side, side, 0, -side, side, 0, 0, 0, 1 << 30)
    path.write_bytes(raw)
    with pytest.raises(ClipError, match="got frames rotated by 45 degrees, need a multiple of 90 degrees"):
        decode_clip(path, sampling=EVERY)


def to_hdr(rgb, transfer):
    """The inverse of what is tested, written anew: an SDR picture on a screen of 100 nits, as HDR values of 16 bits."""
    light = (rgb / 255.0) ** 2.4 @ np.array(
        [[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]]
    ).T
    if transfer == 16:
        power = (light / 100) ** 0.1593017578125
        value = ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375
    else:
        luma = light @ [0.2627, 0.6780, 0.0593]
        scene = light / 10 * np.maximum(luma / 10, 1e-9)[..., None] ** (1 / 1.2 - 1)
        curve = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
        value = np.where(scene <= 1 / 12, np.sqrt(3 * scene), curve)
    return np.round(value * 65535).astype(np.uint16)


@pytest.mark.parametrize("transfer", [16, 18])
def test_hdr_picture_is_about_the_sdr_one(transfer):
    rgb = draw_number(5, width=160, height=96)
    image = find_tone_map(transfer, 9).apply(to_hdr(rgb, transfer))
    assert np.abs(image.astype(int) - rgb).max() <= 3


def test_highlights_are_bent_not_cut():
    tone_map = find_tone_map(16, 9)
    nits = np.array([1, 10, 50, 100, 203, 500, 1000])
    power = (nits / 10000) ** 0.1593017578125
    values = ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375
    grey = np.round(values * 65535).astype(np.uint16)[None, :, None].repeat(3, 2)
    shown = tone_map.apply(grey)[0, :, 0].astype(int)
    assert (np.diff(shown) > 0).all()
    assert shown[-1] == 255
    assert shown[0] == round(255 * 0.01 ** (1 / 2.4))


@pytest.mark.parametrize(("transfer", "name"), [("smpte2084", "HDR (PQ)"), ("arib-std-b67", "HDR (HLG)")])
def test_hdr_clip_is_mapped_with_a_note_and_refused_by_decord(tmp_path, transfer, name):
    tags = {"x264-params": f"colorprim=bt2020:transfer={transfer}:colormatrix=bt2020nc"}
    path = make_clip(tmp_path / "a.mp4", num_frames=4, pixels="yuv420p10le", options=tags)
    plain = make_clip(tmp_path / "b.mp4", num_frames=4, pixels="yuv420p10le")
    with DecodeProcess() as process:
        info = process.inspect(path, sampling=EVERY)
        assert info.file_notes == (f"{name} colours are mapped to SDR, as a player on an ordinary screen shows them",)
        assert info.notes == ()
        clip = process.decode(path, sampling=EVERY)
        assert clip.notes == info.file_notes
        assert process.inspect(plain, sampling=EVERY).file_notes == ()
    assert [read_number(frame) for frame in clip.frames] == [0, 1, 2, 3]
    with pytest.raises(ClipError, match="need frames that are shown as they are stored"):
        decode_clip(path, sampling=EVERY, decoder="decord")


def info(*file_notes):
    return ClipInfo(1, 2, 2, (0.0,), 1, 1.0, 1.0, "pyav", "", (), file_notes)


def test_notes_on_files_are_said_once_with_three_names(tmp_path):
    clips = {tmp_path / f"{index}.ts": info("it may be cut") for index in range(5)}
    clips |= {tmp_path / "a.mov": info("it is HDR"), tmp_path / "b.mp4": info()}
    hdr, cut = sorted(_note_clips(clips, sampling=Sampling()), key=len)
    assert hdr == "a.mov: it is HDR"
    assert "it may be cut" in cut
    assert "5 clips" in cut
    assert cut.count(".ts") <= 4


# --- what a clip may cost


@pytest.mark.parametrize("size", [(16384, 1), (32000, 1), (1, 16384), (8192, 16)])
def test_thin_frames_are_refused(tmp_path, size):
    with pytest.raises(ClipError, match=r"got frames of \d+ x \d+ pixels, need a long side of at most 100 times"):
        check_frame_size(*size, path=tmp_path / "a.mkv", decoder="pyav")
    check_frame_size(3840, 64, path=tmp_path / "a.mkv", decoder="pyav")


def test_thin_clip_is_refused_before_it_is_decoded(tmp_path):
    path = make_clip(tmp_path / "a.mkv", num_frames=2, codec="ffv1", width=6400, height=10, num_b_frames=0)
    for decoder in ("pyav", "decord"):
        with pytest.raises(ClipError, match="got frames of 6400 x 10 pixels"):
            decode_clip(path, sampling=EVERY, decoder=decoder)


def test_more_work_than_fits_into_the_time_is_refused_before_it_begins(tmp_path):
    with pytest.raises(ClipError) as caught:
        check_work(3000, 4096 * 2304, allowed_s=66, path=tmp_path / "a.mkv", decoder="pyav")
    (problem,) = caught.value.problems
    assert problem.got == "about 94 s of decoding (3,000 frames of 9,437,184 pixels)"
    assert problem.need == "at most 66 s"
    check_work(24 * 60, 3840 * 2160, allowed_s=60 + 48, path=tmp_path / "a.mkv", decoder="pyav")
    for name in ("a.mp4", "a.ts"):  # by seeking, and by decoding all
        path = make_clip(tmp_path / name, num_frames=30, gop=30)
        with pytest.raises(ClipError, match=r"got about 0 s of decoding \(\d+ frames of 15,360 pixels\)"):
            decode_clip(path, sampling=EVERY, on_duration=lambda duration_s: 1e-6)


def test_more_memory_than_allowed_is_refused_before_it_is_taken(tmp_path):
    with pytest.raises(ClipError) as caught:
        check_memory(100, (2304, 4096), limit_bytes=2**30, path=tmp_path / "a.mkv", decoder="pyav")
    assert caught.value.problems[0].got == "100 frames of 4096 x 2304 pixels, which need 3.1 GiB"
    path = make_clip(tmp_path / "a.mp4", num_frames=30)
    with pytest.raises(ClipError, match="got 30 frames of 160 x 96 pixels, which need "):
        decode_clip(path, sampling=EVERY, memory_gib=0.001)
