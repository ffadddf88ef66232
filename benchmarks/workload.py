"""Rows and clips of a chosen shape for the benchmarks: real h264 files, questions and answers of random words, all seeded."""

from __future__ import annotations

import json
import random
from pathlib import Path

import av
import numpy as np

WORDS = ("red", "blue", "green", "circle", "square", "triangle", "what", "when", "is", "the", "shown", "at", "second")
WIDTH_PX, HEIGHT_PX, FPS = 320, 240, 12


def make_rows(
    folder: Path,
    *,
    num_clips: int,
    rows_per_clip: float,
    clip_s: int = 24,
    clip_fps: int = FPS,
    size_px: tuple[int, int] = (WIDTH_PX, HEIGHT_PX),
    question_words: tuple[int, int] = (5, 9),
    answer_words: tuple[int, int] = (3, 6),
    seed: int = 0,
) -> Path:
    """Writes clips and their rows.

    Args:
        folder: Gets clip-*.mp4 and rows.jsonl.
        num_clips: Clips.
        rows_per_clip: Rows of each on average; what is behind the point is spread over the clips at random.
        clip_s: Length of a clip; 24 seconds give 24 frames at one per second.
        clip_fps: Frames per second of its file.
        size_px: Width and height of its frames.
        question_words: Fewest and most words of a question, drawn evenly.
        answer_words: The same of an answer.
        seed: Decides everything.

    Returns:
        The rows' file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    chance = random.Random(f"workload {seed}")
    lines = []
    for number in range(num_clips):
        name = f"clip-{number:04d}.mp4"
        _encode(folder / name, num_frames=clip_s * clip_fps, fps=clip_fps, size_px=size_px, seed=seed * 10_000 + number)
        whole, part = divmod(rows_per_clip, 1)
        for _ in range(int(whole) + (chance.random() < part)):
            question, answer = (
                " ".join(chance.choices(WORDS, k=chance.randint(*bounds))) for bounds in (question_words, answer_words)
            )
            lines.append(json.dumps({"query": f"{question} ?", "response": answer, "videos": [name]}))
    path = folder / "rows.jsonl"
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def _encode(path: Path, *, num_frames: int, fps: int, size_px: tuple[int, int], seed: int) -> None:
    """Writes a clip of coloured blocks that drift over a textured ground."""
    width_px, height_px = size_px
    rng = np.random.default_rng(seed)
    ground = np.kron(
        rng.integers(0, 120, (height_px // 8, width_px // 8, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8)
    )
    starts, speeds = rng.integers(0, 200, (6, 2)), rng.integers(-3, 4, (6, 2))
    colours = rng.integers(60, 255, (6, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "28", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = width_px, height_px, "yuv420p"
        for frame_number in range(num_frames):
            frame = ground.copy()
            for start, speed, colour in zip(starts, speeds, colours, strict=True):
                top, left = (start + speed * frame_number) % (height_px - 40)
                frame[top : top + 40, left : left + 40] = colour
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
