"""A file that is no clip is named as what it is, with what is read instead; gif and ogv are read."""

import gzip
import io
import tarfile
import wave
import zipfile

import av
import numpy as np
import pytest
from PIL import Image

from cvft.data.video.decode import decode_clip
from cvft.data.video.kinds import READ_KINDS, name_kind
from cvft.data.video.sample import Sampling
from cvft.errors import ClipError
from tests.fixtures_video import make_clip, read_number


def picture(kind, **options):
    file = io.BytesIO()
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(file, kind, **options)
    return file.getvalue()


def animated_webp():
    file = io.BytesIO()
    frames = [Image.new("RGB", (64, 48), color) for color in ("red", "blue")]
    frames[0].save(file, "WEBP", save_all=True, append_images=frames[1:])
    return file.getvalue()


def sound(codec, container):
    file = io.BytesIO()
    with av.open(file, "w", format=container) as target:
        stream = target.add_stream(codec, rate=44100)
        layout = "mono"
        for index in range(20):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.float32), format="fltp", layout=layout)
            frame.sample_rate, frame.pts = 44100, index * 1152
            target.mux(stream.encode(frame))
        target.mux(stream.encode())
    return file.getvalue()


def wav():
    file = io.BytesIO()
    with wave.open(file, "wb") as target:
        target.setparams((1, 2, 16000, 0, "NONE", ""))
        target.writeframes(bytes(32000))
    return file.getvalue()


def archive():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as target:
        target.writestr("a.mp4", b"x")
    return file.getvalue()


def tar():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as target:
        target.addfile(tarfile.TarInfo("a.mp4"))
    return file.getvalue()


def raw_stream(codec, container):
    file = io.BytesIO()
    with av.open(file, "w", format=container) as target:
        stream = target.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        target.mux(stream.encode(av.VideoFrame(64, 48, "yuv420p")))
        target.mux(stream.encode())
    return file.getvalue()


NO_CLIPS = {
    "a PNG picture": lambda: picture("PNG"),
    "a JPEG picture": lambda: picture("JPEG"),
    "a BMP picture": lambda: picture("BMP"),
    "a TIFF picture": lambda: picture("TIFF"),
    "a WebP picture": animated_webp,
    "a WAV sound file": wav,
    "an MP3 or AAC sound file": lambda: sound("aac", "adts"),
    "an MP3 sound file": lambda: b"ID3\x04\0\0\0\0\0\0" + b"\xff\xfb\x90\0" + bytes(400),
    "a FLAC sound file": lambda: b"fLaC\0\0\0\x22" + bytes(100),
    "a PDF document": lambda: b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n",
    "a zip archive (or an office document)": archive,
    "a tar archive": tar,
    "a gzip archive": lambda: gzip.compress(b"x" * 100),
    "a Parquet table": lambda: b"PAR1" + bytes(100) + b"PAR1",
    "a web page (HTML)": lambda: b"\n<!DOCTYPE html><html><body>404</body></html>",
    "an XML document": lambda: b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>",
    "a JSON text": lambda: b'{"error": "quota"}',
    "a text file": lambda: "видео нет\n".encode() * 900,
    "a playlist, not the clip itself": lambda: b"#EXTM3U\n#EXTINF:9,\na.ts\n",
    "a git-lfs pointer, not the clip itself": lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    "nothing but zeros": lambda: bytes(5000),
    "a raw H.264 stream": lambda: raw_stream("libx264", "h264"),
    "a y4m clip": lambda: b"YUV4MPEG2 W64 H48 F25:1\nFRAME\n" + bytes(4608),
}


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
@pytest.mark.parametrize("name", NO_CLIPS)
def test_file_that_is_no_clip_is_named(tmp_path, name, decoder):
    path = tmp_path / "clip.mp4"
    path.write_bytes(NO_CLIPS[name]())
    with pytest.raises(ClipError) as caught:
        decode_clip(path, sampling=Sampling(), decoder=decoder)
    (problem,) = caught.value.problems
    assert (problem.where, problem.got, problem.need) == (f"{path} (decoder `{decoder}`)", name, READ_KINDS)
    assert problem.hint


def test_clip_that_is_damaged_is_called_a_clip(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"\0\0\0\x20ftypisom" + np.random.default_rng(0).bytes(5000))
    with pytest.raises(ClipError) as caught:
        decode_clip(path, sampling=Sampling())
    (problem,) = caught.value.problems
    assert problem.got == "an mp4 or mov clip that it cannot decode (Invalid data found when processing input)"
    assert (problem.need, problem.hint) == ("a whole file", "the file is damaged or cut off; copy it again")


def test_random_bytes_have_no_name(tmp_path):
    path = tmp_path / "a.mp4"
    for seed in range(200):
        path.write_bytes(np.random.default_rng(seed).bytes(5000))
        assert name_kind(path) is None


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [("a.gif", "gif", {"pixels": "rgb8"}), ("a.ogv", "libvpx", {"options": {"deadline": "realtime"}})],
)
def test_gif_and_ogv_are_read(tmp_path, name, codec, options):
    path = make_clip(tmp_path / name, codec=codec, num_b_frames=0, num_frames=20, **options)
    clip = decode_clip(path, sampling=Sampling("uniform", 100))
    assert [read_number(frame) for frame in clip.frames] == list(range(20))
    assert clip.duration_s == pytest.approx(0.8, abs=1e-3)
    assert clip.notes == ()
