"""A cut clip is no short clip: refused where its container states more, else a note; and no whole clip is refused."""

import av
import numpy as np
import pytest

from cvft.data.video.decode import decode_clip
from cvft.data.video.sample import Sampling
from cvft.data.video.truncation import find_ending
from cvft.errors import ClipError
from tests.fixtures_video import make_clip

CHAT = Sampling()
NUM_FRAMES = 60
FRAGMENTED = {"container_options": {"movflags": "frag_keyframe+empty_moov"}}
NO_B = {"num_b_frames": 0}
VP9 = {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8"}, **NO_B}

STATE_THEIR_END = {
    "a.mp4": {},
    "a.mov": {},
    "fast.mp4": {"container_options": {"movflags": "faststart"}},
    "a.mkv": {},
    "a.webm": VP9,
    "h264.avi": {},
    "mpeg4.avi": {"codec": "mpeg4"},
    "mjpeg.avi": {"codec": "mjpeg", "pixels": "yuvj420p", **NO_B},
    "a.wmv": {"codec": "wmv2", **NO_B},
    "a.flv": {"codec": "flv1", **NO_B},
    "h264.flv": {},
}
DO_NOT = {
    "fragmented.mp4": FRAGMENTED,
    "live.mkv": {"container_options": {"live": "1"}},
    "a.ts": {},
    "a.mpg": {"codec": "mpeg2video"},
    "a.gif": {"codec": "gif", "pixels": "rgb8", **NO_B},
}
UNKNOWN = "the container does not state its length: a file that was cut off would look the same"


def make(folder, name):
    return make_clip(folder / name, num_frames=NUM_FRAMES, width=64, height=48, **{**STATE_THEIR_END, **DO_NOT}[name])


def read(path):
    """How many frames a clip has and what is said about it; None where it is refused."""
    try:
        clip = decode_clip(path, sampling=CHAT)
    except ClipError as error:
        return None, error.problems[0].got
    return clip.num_frames_total, clip.notes


def shorten(path, raw, share, *, zeros):
    keep = int(len(raw) * share)
    path.write_bytes(raw[:keep] + (bytes(len(raw) - keep) if zeros else b""))


@pytest.mark.parametrize("zeros", [False, True], ids=["cut", "zeros"])
@pytest.mark.parametrize("name", [*STATE_THEIR_END, *DO_NOT])
def test_cut_clip_is_refused_or_noted(tmp_path, name, zeros):
    path = make(tmp_path, name)
    raw = path.read_bytes()
    silent, refused = [], 0
    for share in np.linspace(0.4, 0.97, 20):
        shorten(path, raw, share, zeros=zeros)
        num_frames, notes = read(path)
        refused += num_frames is None
        if num_frames is not None and num_frames < NUM_FRAMES and not notes:
            silent.append((share, num_frames))
    assert not silent
    if name in STATE_THEIR_END:
        assert refused >= (19 if not zeros else 15)


@pytest.mark.parametrize("name", [*STATE_THEIR_END, *DO_NOT])
@pytest.mark.parametrize("stray", [b"", b"\0" * 5000, b"TAG" + b" " * 125, bytes(range(256)) * 9], ids=len)
def test_whole_clip_is_read_whatever_follows_its_end(tmp_path, name, stray):
    path = make(tmp_path, name)
    path.write_bytes(path.read_bytes() + stray)
    num_frames, notes = read(path)
    assert num_frames == NUM_FRAMES
    if not stray:
        assert notes == ((UNKNOWN,) if name in ("live.mkv", "a.ts", "a.mpg") else ())


class Pipe:
    """A file that cannot be sought: what a live recording is written to."""

    def __init__(self, path):
        self.path = path
        path.touch()

    def write(self, data):
        with open(self.path, "ab") as file:
            return file.write(bytes(data))


@pytest.mark.parametrize(
    ("name", "container", "codec"),
    [
        ("a.avi", "avi", "mpeg4"),
        ("a.mkv", "matroska", "libx264"),
        ("a.flv", "flv", "flv1"),
        ("a.wmv", "asf", "wmv2"),
        ("a.mpg", "mpeg", "mpeg2video"),
        ("a.ts", "mpegts", "libx264"),
    ],
)
def test_clip_written_to_a_pipe_is_read_with_a_note(tmp_path, name, container, codec):
    pipe = Pipe(tmp_path / name)
    with av.open(pipe, "w", format=container) as target:
        stream = target.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.max_b_frames = 0
        for index in range(20):
            frame = av.VideoFrame.from_ndarray(np.full((72, 64), index * 9, np.uint8), format="yuv420p")
            frame.pts = index
            target.mux(stream.encode(frame))
        target.mux(stream.encode())
    assert read(tmp_path / name) == (20, (UNKNOWN,))


def test_fragmented_clip_cut_between_two_fragments_gets_a_note(tmp_path):
    path = make(tmp_path, "fragmented.mp4")
    raw = path.read_bytes()
    last = raw.rindex(b"moof") - 4
    path.write_bytes(raw[:last])
    num_frames, notes = read(path)
    assert 0 < num_frames < NUM_FRAMES
    assert notes == (UNKNOWN,)


def test_gif_without_its_trailer_gets_a_note(tmp_path):
    path = make(tmp_path, "a.gif")
    path.write_bytes(path.read_bytes()[:-1])
    assert read(path)[1] == ("the file ends without its trailer, as one does that was cut off",)


def test_avi_says_how_much_is_missing(tmp_path):
    path = make(tmp_path, "mpeg4.avi")
    raw = path.read_bytes()
    path.write_bytes(raw[:-1000])
    assert find_ending(path).num_missing == 1000
    assert read(path) == (None, "a file that was cut off (at least 1,000 bytes are missing)")


def test_impossible_size_is_damage_not_a_cut(tmp_path):
    path = make(tmp_path, "a.mkv")
    raw = bytearray(path.read_bytes())
    segment = raw.index(b"\x18\x53\x80\x67")
    raw[segment + 5 : segment + 8] = b"\x7f\xff\xff"
    path.write_bytes(raw)
    assert read(path)[1].startswith("a container that states an impossible size (")


@pytest.mark.parametrize("seed", range(40))
def test_no_bytes_break_the_search_for_the_end(tmp_path, seed):
    """Each parser on damaged and on random bytes: an ending, never an exception, never without end."""
    random = np.random.default_rng(seed)
    kinds = [
        b"\0\0\0\x18ftypmp42",
        b"\x1aE\xdf\xa3\x84",
        b"RIFF\xff\0\0\0AVI LIST",
        b"\x30\x26\xb2\x75\x8e\x66\xcf\x11",
    ]
    kinds += [b"FLV\x01\x05\0\0\0\x09\0\0\0\0\x09", b"GIF89a", b"OggS\0\x02", b"\0\0\x01\xba\x44", b"G"]
    path = tmp_path / "a"
    for kind in kinds:
        path.write_bytes(kind + random.choice([0, 0, 1, 8, 255, 64], 3000).astype(np.uint8).tobytes())
        find_ending(path)
        path.write_bytes(kind + random.bytes(int(random.integers(0, 3000))))
        find_ending(path)
