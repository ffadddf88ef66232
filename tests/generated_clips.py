"""Makes small clips of every kind that is read, from a seed, and says with FFmpeg's own means what each of them shows.

The reference is ffmpeg itself where `CVFT_FFMPEG` names one. Else it is this file's own use of FFmpeg's libraries through PyAV,
plain and slow: every packet is decoded in order by a decoder with default settings, frames are turned by the filters
that ffmpeg inserts (transpose, hflip, vflip), and nothing is indexed, sought or skipped. Nothing of `cvft` is imported.
"""

from __future__ import annotations

import itertools
import os
import re
import struct
import subprocess
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from random import Random

import av
import numpy as np

WIDTH, HEIGHT = 64, 48

FFMPEG = os.environ.get("CVFT_FFMPEG")
"""An ffmpeg to ask. It has to be of the release whose libraries PyAV brings: others show other frames of damaged clips."""

FAST = {"deadline": "realtime", "cpu-used": "8"}
TWO_PASS = {"deadline": "good", "cpu-used": "5", "auto-alt-ref": "1", "lag-in-frames": "16"}
NO_LOG = {"x265-params": "log-level=none", "preset": "ultrafast"}
QUICK = {"preset": "ultrafast"}

KINDS: dict[str, tuple[str, str, dict]] = {
    "h264.mp4": ("mp4", "libx264", {}),
    "h264_fast.mp4": ("mp4", "libx264", QUICK),
    "open_gop.mp4": ("mp4", "libx264", {"x264-params": "open-gop=1:b-adapt=0"}),
    "hevc.mp4": ("mp4", "libx265", NO_LOG),
    "mpeg4.mp4": ("mp4", "mpeg4", {}),
    "vp9.mp4": ("mp4", "libvpx-vp9", TWO_PASS),
    "fragments.mp4": ("mp4", "libx264", {}),
    "h264.mov": ("mov", "libx264", {}),
    "mjpeg.mov": ("mov", "mjpeg", {}),
    "prores.mov": ("mov", "prores_ks", {}),
    "h264.mkv": ("matroska", "libx264", {}),
    "live.mkv": ("matroska", "libx264", {}),
    "mpeg4.mkv": ("matroska", "mpeg4", {}),
    "ffv1.mkv": ("matroska", "ffv1", {}),
    "vp8.webm": ("webm", "libvpx", TWO_PASS),
    "vp9.webm": ("webm", "libvpx-vp9", TWO_PASS),
    "vp9_fast.webm": ("webm", "libvpx-vp9", FAST),
    "h264.avi": ("avi", "libx264", {}),
    "mpeg4.avi": ("avi", "mpeg4", {}),
    "mjpeg.avi": ("avi", "mjpeg", {}),
    "huffyuv.avi": ("avi", "huffyuv", {}),
    "msmpeg4.avi": ("avi", "msmpeg4v3", {}),
    "h264.ts": ("mpegts", "libx264", {}),
    "mpeg2.ts": ("mpegts", "mpeg2video", {}),
    "mpeg1.mpg": ("mpeg", "mpeg1video", {}),
    "mpeg2.mpg": ("mpeg", "mpeg2video", {}),
    "flv1.flv": ("flv", "flv1", {}),
    "h264.flv": ("flv", "libx264", {}),
    "wmv1.wmv": ("asf", "wmv1", {}),
    "wmv2.wmv": ("asf", "wmv2", {}),
    "h264.wmv": ("asf", "libx264", {}),
    "a.gif": ("gif", "gif", {}),
}
"""Name -> container, codec, its options."""

MUXER_OPTIONS = {
    "fragments.mp4": {"movflags": "frag_keyframe+empty_moov"},
    "live.mkv": {"live": "1"},
}

PIXELS = {"gif": "rgb8", "mjpeg": "yuvj420p", "prores_ks": "yuv422p10le", "huffyuv": "yuv422p", "ffv1": "yuv444p"}
B_FRAMES = {"libx264", "libx265", "mpeg4", "mpeg1video", "mpeg2video"}
FREE_TIMES = {"mp4", "mov", "matroska", "webm"}
INDEXED_CUTS = {"mp4", "mov", "matroska", "webm", "avi", "mpegts", "flv", "asf"}
MPEG_RATES = {"mpeg1video", "mpeg2video"}

ORIENTATIONS = [
    (1, 0, 0, 1),
    (0, 1, -1, 0),
    (-1, 0, 0, -1),
    (0, -1, 1, 0),
    (-1, 0, 0, 1),
    (1, 0, 0, -1),
    (0, 1, 1, 0),
    (0, -1, -1, 0),
]
"""The eight display matrices (a, b, c, d) of right angles and mirrors."""


@dataclass
class Clip:
    """A generated clip.

    Args:
        path: The file.
        name: What it is, for messages.
        is_whole: Nothing was taken from it: it must be read.
        num_frames: Frames that were written.
        has_junk: Stray bytes follow its end.
    """

    path: Path
    name: str
    is_whole: bool
    num_frames: int = 0
    has_junk: bool = False


@dataclass
class Shown:
    """What FFmpeg shows of a clip.

    Args:
        times_s: Start of each frame since the first.
        frames: uint8 `(H, W, 3)` each.
        is_estimated: Frames at the end have no time of their own: their times are estimated.
    """

    times_s: list[float] = field(default_factory=list)
    frames: list[np.ndarray] = field(default_factory=list)
    num_estimated: int = 0


def make_clips(folder: Path, *, seed: int, number: int) -> list[Clip]:
    """Writes `number` clips: every kind in turn, everything else by the seed."""
    kinds = list(KINDS)
    return [make_one(folder, Random(f"{seed}/{i}"), kinds[i % len(kinds)], i) for i in range(number)]


def make_one(folder: Path, rng: Random, kind: str, index: int) -> Clip:
    container, codec, options = KINDS[kind]
    rates = (
        [25, Fraction(30000, 1001)] if codec in MPEG_RATES else [25, Fraction(30000, 1001), 10, Fraction(25, 2), 60, 1]
    )
    rate = Fraction(rng.choice(rates if container != "gif" else [25, 10]))
    if container in FREE_TIMES and rng.random() < 0.1:
        rate = Fraction(1, 10)
    num_frames = rng.choice([1, 2, 5, 12, 20, 31])
    if codec == "libx265":  # its encoder fails now and then on fewer
        num_frames = max(5, num_frames)
    path = folder / f"{index:03d}_{kind}"
    has_b_frames = codec in B_FRAMES and rng.random() < 0.7
    gop = rng.choice([1, 5, 12, 250])
    uneven = container in FREE_TIMES and rng.random() < 0.3
    rate = Fraction(25) if uneven else rate
    begin = rng.choice([0, 0, 0, 7, 90]) if container not in ("gif", "avi") else 0
    size = (WIDTH, HEIGHT) if rng.random() < 0.8 else rng.choice([(80, 32), (64, 80), (96, 96)])
    what = f"{rate} fps, {num_frames} frames, gop {gop}, begin {begin}, {size}"
    write(
        path, rng, container, codec, options, rate=rate, num_frames=num_frames, gop=gop, has_b_frames=has_b_frames,
        uneven=uneven, begin=begin, size=size, muxer_options=MUXER_OPTIONS.get(kind, {}),
    )  # fmt: skip
    clip = Clip(path, f"{path.name} ({what}, B {has_b_frames}, uneven {uneven})", is_whole=True, num_frames=num_frames)
    change = rng.random()
    if container in ("mp4", "mov") and "fragments" not in kind and change < 0.5:
        matrix = rng.choice(ORIENTATIONS)
        turn(path, matrix)
        clip.name += f" turned {matrix}"
    if 0.4 < change < 0.6 and container in INDEXED_CUTS:
        cut_packets(clip, rng, container)
    elif 0.6 < change < 0.75:
        cut_bytes(clip, rng)
    elif 0.75 < change < 0.85:
        junk = rng.choice([b"\0" * 700, rng.randbytes(333), b"TAG" + b" " * 125])
        path.write_bytes(path.read_bytes() + junk)
        clip.name += f" with {len(junk)} stray bytes"
        clip.has_junk = True
    return clip


def write(
    path, rng, container, codec, options, *, rate, num_frames, gop, has_b_frames, uneven, begin, size, muxer_options
):
    """Encodes a moving gradient with noise in it, so that each frame differs from the others."""
    noise = np.random.default_rng(rng.randrange(1 << 30))
    pixels = PIXELS.get(codec, "yuv420p")
    time_base = 1 / rate if not uneven else Fraction(1, 1000)
    with av.open(str(path), "w", format=container, options=muxer_options) as target:
        stream = target.add_stream(codec, rate=rate, options=dict(options))
        stream.width, stream.height, stream.pix_fmt = *size, pixels
        context = stream.codec_context
        context.gop_size, context.max_b_frames, context.thread_count = gop, 2 if has_b_frames else 0, 1
        context.time_base = time_base
        tick = 0
        for index in range(num_frames):
            image = noise.integers(0, 60, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
            image[:, :, index % 3] += np.linspace(0, 195, size[0], dtype=np.uint8)[None]
            image[: size[1] // 4] = index * 8 % 256
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=pixels)
            frame.pts, frame.time_base = tick + begin, time_base
            tick += rng.randrange(20, 400) if uneven else 1
            target.mux(stream.encode(frame))
        target.mux(stream.encode())


def turn(path: Path, matrix: tuple[int, int, int, int]) -> None:
    """Writes a display matrix into the track header."""
    raw = bytearray(path.read_bytes())
    a, b, c, d = (value << 16 for value in matrix)
    struct.pack_into(">9i", raw, raw.index(b"tkhd") + 44, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(raw)


def cut_packets(clip: Clip, rng: Random, container: str) -> None:
    """Copies a part of its packets without decoding, as cutting tools do: the result is a whole file."""
    source = clip.path.with_suffix(f".source{clip.path.suffix}")
    clip.path.rename(source)
    with av.open(str(source), format=container.replace("webm", "matroska")) as reader:
        stream = reader.streams.video[0]
        packets = [packet for packet in reader.demux(stream) if packet.size]
        keys = [i for i, packet in enumerate(packets) if packet.is_keyframe] or [0]
        first = rng.choice(keys) if rng.random() < 0.8 else rng.randrange(len(packets))
        last = rng.randrange(first, len(packets)) + 1
        shift = rng.choice([0, packets[first].dts or 0, rng.randrange(40) + (packets[first].dts or 0)])
        is_mov = container in ("mp4", "mov")
        options = {"avoid_negative_ts": "disabled"} if is_mov else {}
        with av.open(str(clip.path), "w", format=container, options=options) as target:
            copy = target.add_stream_from_template(stream)
            for packet in packets[first:last]:
                if packet.pts is not None:
                    packet.pts -= shift
                if packet.dts is not None:
                    packet.dts -= shift
                packet.stream = copy
                target.mux(packet)
    source.unlink()
    clip.name += f" packets {first}:{last} of {len(packets)} moved by {-shift}"
    clip.is_whole = first in keys
    clip.num_frames = 0


def cut_bytes(clip: Clip, rng: Random) -> None:
    """Takes the end of the file away, or fills it with zeros."""
    raw = clip.path.read_bytes()
    keep = int(len(raw) * rng.uniform(0.3, 0.97))
    zeros = rng.random() < 0.5
    clip.path.write_bytes(raw[:keep] + (bytes(len(raw) - keep) if zeros else b""))
    clip.name += f" {'zeros' if zeros else 'cut'} from byte {keep} of {len(raw)}"
    clip.is_whole = False


# --- what FFmpeg shows


def show(path: Path) -> Shown:
    """Returns what FFmpeg shows of a clip: empty where it shows nothing."""
    return show_by_program(path) if FFMPEG else show_by_libraries(path)


def show_by_program(path: Path) -> Shown:
    """Asks ffmpeg itself."""
    filters = "showinfo,scale=flags=bicubic,format=rgb24"
    kind = ["-f", "mpegts"] if path.suffix == ".ts" else []  # too short for FFmpeg to know it by its bytes
    command = [FFMPEG, "-hide_banner", "-nostdin", *kind, "-i", str(path), "-map", "0:v:0", "-fps_mode", "passthrough"]
    done = subprocess.run([*command, "-vf", filters, "-f", "rawvideo", "-"], capture_output=True, check=False)
    found = re.findall(
        r"showinfo.* n: *\d+ pts: *\S+ pts_time:(\S+).* s:(\d+)x(\d+) ", done.stderr.decode(errors="replace")
    )
    shown, at = Shown(), 0
    for time, width, height in found:
        size = int(width) * int(height) * 3
        image = np.frombuffer(done.stdout[at : at + size], dtype=np.uint8)
        if image.size == size:
            shown.frames.append(image.reshape(int(height), int(width), 3))
            shown.times_s.append(float(time) - float(found[0][0]))
        at += size
    return shown


def show_by_libraries(path: Path) -> Shown:
    """Decodes every frame in order."""
    shown, times = Shown(), []
    try:
        kind = "mpegts" if path.suffix == ".ts" else None  # too short for FFmpeg to know it by its bytes
        with av.open(str(path), format=kind, metadata_errors="replace") as container:
            stream = container.streams.best("video")
            stream.codec_context.thread_count = 1
            for packet in container.demux(stream):
                if packet.size == 0 and packet.pts is not None:
                    continue
                try:
                    frames = packet.decode()
                except av.error.FFmpegError:
                    continue
                for frame in frames:
                    times.append((frame.pts, frame.dts, frame.duration))
                    shown.frames.append(convert(frame))
            time_base = stream.time_base
            shown_at = [time[0] for time in times if time[0] is not None]
            goes_back = any(a > b for a, b in itertools.pairwise(shown_at))
            if container.format.name == "avi" or goes_back:  # those are no presentation times
                times = [(None, *time[1:]) for time in times]
    except (av.error.FFmpegError, AttributeError):
        return Shown()
    shown.times_s, shown.num_estimated = to_times(times, time_base)
    return shown


def to_times(times, time_base) -> tuple[list[float], int]:
    """Source: `guess_correct_pts` of libavcodec/decode.c, whose `best_effort_timestamp` PyAV does not hand out."""
    guessed, last, faulty = [], {"pts": None, "dts": None}, {"pts": 0, "dts": 0}
    for pts, dts, _ in times:
        for name, time in (("pts", pts), ("dts", dts)):
            if time is not None:
                faulty[name] += last[name] is not None and time <= last[name]
        last["dts"] = next((time for time in (dts, pts) if time is not None), last["dts"])
        last["pts"] = next((time for time in (pts, dts) if time is not None), last["pts"])
        guessed.append(pts if pts is not None and (dts is None or faulty["pts"] <= faulty["dts"]) else dts)
    known = list(itertools.takewhile(lambda time: time is not None, guessed))
    steps = sorted(b - a for a, b in itertools.pairwise(known))
    step = steps[len(steps) // 2] if steps else 1
    num_estimated = len(guessed) - len(known)
    guessed = known + [(known[-1] if known else 0) + step * (i + 1) for i in range(num_estimated)]
    return [float((time - guessed[0]) * time_base) for time in guessed], num_estimated


def convert(frame: av.VideoFrame) -> np.ndarray:
    """Source: ffmpeg's `configure_input_video_filter` (fftools/ffmpeg_filter.c), which filters turn a picture."""
    filters = []
    for data in frame.side_data:
        if data.type.name == "DISPLAYMATRIX":
            m = struct.unpack("=9i", bytes(data))
            theta = round(-frame.rotation) % 360
            if theta == 90:
                filters = [("transpose", "cclock_flip" if m[3] > 0 else "clock")]
            elif theta == 180:
                filters = [("hflip", "")] * (m[0] < 0) + [("vflip", "")] * (m[4] < 0)
            elif theta == 270:
                filters = [("transpose", "clock_flip" if m[3] < 0 else "cclock")]
            elif m[4] < 0:
                filters = [("vflip", "")]
    graph = av.filter.Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base or Fraction(1, 1000)
    )
    steps = [*filters, ("scale", "flags=bicubic"), ("format", "rgb24")]
    graph.link_nodes(
        source, *(graph.add(*step) if step[1] else graph.add(step[0]) for step in steps), graph.add("buffersink")
    )
    graph.configure()
    graph.vpush(frame)
    return graph.vpull().to_ndarray()
