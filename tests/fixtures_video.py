"""Makes small real clips with PyAV whose frames carry their own number, and finds the real clips of a test wheel."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

NUM_BITS = 10


def draw_number(number: int, *, width: int, height: int) -> np.ndarray:
    """A frame whose left-to-right blocks are the bits of `number`, under a band of seeded texture."""
    rgb = np.random.default_rng(number).integers(0, 255, (height, width, 3), dtype=np.uint8)
    rgb = np.repeat(np.repeat(rgb[::8, ::8], 8, 0), 8, 1)[:height, :width]
    block = width // NUM_BITS
    for bit in range(NUM_BITS):
        rgb[height // 2 :, bit * block : (bit + 1) * block] = 235 if number >> bit & 1 else 16
    return rgb


def read_number(frame: np.ndarray) -> int:
    """The number that `draw_number` wrote into a frame."""
    height, width, _ = frame.shape
    block = width // NUM_BITS
    rows = frame[height * 5 // 8 : height * 7 // 8]
    centers = [rows[:, bit * block + block // 4 : bit * block + block * 3 // 4].mean() for bit in range(NUM_BITS)]
    return sum(1 << bit for bit, value in enumerate(centers) if value > 128)


def make_clip(
    path: Path,
    *,
    num_frames: int = 30,
    fps: Fraction | int = 25,
    width: int = 160,
    height: int = 96,
    codec: str = "libx264",
    gop: int = 12,
    num_b_frames: int = 2,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    pixels: str = "yuv420p",
    times: list[int] | None = None,
    time_base: Fraction | None = None,
    numbers_from: int = 0,
) -> Path:
    """Writes a clip whose frame i carries the number `numbers_from + i`; `times` makes a variable frame rate."""
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=Fraction(fps), options=options or {})
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        if codec == "libx264":  # every frame is a new scene to the encoder; key frames come by number instead
            stream.options = {"sc_threshold": "0", **(options or {})}
        context = stream.codec_context
        context.gop_size, context.max_b_frames, context.thread_count = gop, num_b_frames, 1
        base = time_base or 1 / Fraction(fps)
        context.time_base = base
        for index in range(num_frames):
            image = draw_number(numbers_from + index, width=width, height=height)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=pixels)
            frame.pts = times[index] if times else index
            frame.time_base = base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def make_audio(path: Path, *, has_cover: bool = False) -> Path:
    """Writes a file with one second of silence and no video, perhaps with the picture of a record's cover."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        if has_cover:
            cover = container.add_stream("mjpeg", rate=1)
            cover.width, cover.height, cover.pix_fmt = 160, 96, "yuvj420p"
            cover.disposition = av.stream.Disposition.attached_pic
            image = av.VideoFrame.from_ndarray(draw_number(1, width=160, height=96), format="rgb24")
            container.mux(cover.encode(image.reformat(format="yuvj420p")))
            container.mux(cover.encode())
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), dtype=np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        frame.pts = 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def cut_without_decoding(source: Path, target: Path, *, start_frame: int, gop: int, fps: int) -> Path:
    """Copies packets from the key frame before `start_frame`, and hides those before it behind an edit list.

    This is what cutting a clip without re-encoding makes, and what most clip data sets consist of.
    """
    first_key = start_frame // gop * gop
    with av.open(str(source)) as reader, av.open(str(target), "w", options={"avoid_negative_ts": "disabled"}) as writer:
        stream = reader.streams.video[0]
        copy = writer.add_stream_from_template(stream)
        ticks = int(1 / (fps * stream.time_base))
        is_copying = False
        for packet in reader.demux(stream):
            if packet.pts is None:
                continue
            is_copying = is_copying or (packet.is_keyframe and packet.pts >= first_key * ticks)
            if is_copying:
                packet.pts -= start_frame * ticks
                packet.dts -= start_frame * ticks
                packet.stream = copy
                writer.mux(packet)
    return target


def rotate_header(path: Path, degrees: int) -> Path:
    """Writes a rotation into the track header of an mp4, as phones do."""
    matrices = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}
    a, b, c, d = (value << 16 for value in matrices[degrees])
    raw = bytearray(path.read_bytes())
    place = raw.index(b"tkhd") + 4 + 40
    struct.pack_into(">9i", raw, place, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(raw)
    return path
