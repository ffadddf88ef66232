"""Makes the data set `tiny_shapes`: h264 clips of the tiny world, train, replay, val and general rows, and card.yaml.

    python datasets/tiny_shapes/make.py [--out FOLDER]

Seed -> scenes -> mp4 (8 fps, yuv420p) and rows. The train rows teach the one skill that the tiny model was not
pre-trained on, when an object is visible ("from 2 to 4"); the val rows also ask what it already knows, so that forgetting
would show. The replay rows ask, about the train clips, for other skills of the pre-training: mixed into the training, they keep
it from unlearning them. The general rows ask for the same skills about some of the val clips: a probe set of what training is
not about. Train and val clips are disjoint. The same seed and the same PyAV build give the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import av
import numpy as np

from cvft.tiny.questions import BASE_CATEGORIES, HELD_OUT_CATEGORY, SECONDS_CATEGORIES, ask
from cvft.tiny.world import CLIP_FPS, MAX_SECONDS, Scene, render_clip, sample_scene

SEED = 20240829
NUM_CLIPS = {"train": 64, "val": 32}
KEPT_CATEGORIES = ("colour", "shape", "count", *SECONDS_CATEGORIES)
"""What the tiny model knows already and must not forget."""
NUM_TRAIN_KEPT = 3
GENERAL_CATEGORIES = tuple(name for name in BASE_CATEGORIES if name not in KEPT_CATEGORIES)
"""What the tiny model knows too, and no train or val row asks."""
NUM_REPLAYED = 2
"""Rows of `GENERAL_CATEGORIES` about each train clip."""
NUM_GENERAL_CLIPS = 16
"""Val clips that the general rows ask about; with ten or more, differences have intervals."""


def encode_clip(frames: np.ndarray, path: Path, *, preset: str = "medium") -> None:
    """Writes uint8 RGB frames (N, H, W, 3) as an h264 mp4 at `CLIP_FPS`."""
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
        # one thread and no assembler: with either, x264 gives other bytes for the same frames now and then
        options = {"crf": "23", "preset": preset, "x264-params": "threads=1:asm=0"}
        stream = container.add_stream("libx264", rate=CLIP_FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def draw_scenes(rng: np.random.Generator, *, num_clips: int) -> list[Scene]:
    """Draws scenes that allow many interval questions, few of which span the whole clip."""
    scenes: list[Scene] = []
    while len(scenes) < num_clips:
        scene = sample_scene(rng, num_seconds=int(rng.integers(4, MAX_SECONDS + 1)))
        whole = f"from 0 to {scene.num_seconds - 1}"
        answers = [answer for _, answer in ask(scene, category=HELD_OUT_CATEGORY)]
        if len(answers) >= 3 and answers.count(whole) <= 1:
            scenes.append(scene)
    return scenes


def clip_rows(
    scene: Scene, *, rng: np.random.Generator, categories: tuple[str, ...], video: str
) -> list[dict[str, object]]:
    """Returns all interval rows of a clip and one row of each of `categories` that the scene allows."""
    asked = [(HELD_OUT_CATEGORY, *pair) for pair in ask(scene, category=HELD_OUT_CATEGORY)]
    for category in categories:
        found = ask(scene, category=category)
        if found:
            asked.append((category, *found[int(rng.integers(len(found)))]))
    return [
        {"query": question, "response": answer, "history": [], "videos": [video], "category": category}
        for category, question, answer in asked
    ]


def other_rows(
    scenes: list[Scene], *, rng: np.random.Generator, clips: str, num_per_clip: int = len(GENERAL_CATEGORIES)
) -> list[str]:
    """Returns rows of `GENERAL_CATEGORIES` about scenes: one of each that a scene allows, or some of these.

    Args:
        scenes: What is asked about.
        rng: Source of chance, of these rows alone: clips and other rows stay what they are.
        clips: Split whose clips show the scenes, in their order.
        num_per_clip: Rows about a scene at most; which ones is drawn.

    Returns:
        Lines of JSON.
    """
    lines = []
    for index, scene in enumerate(scenes):
        drawn = []
        for category in GENERAL_CATEGORIES:
            if found := ask(scene, category=category):
                drawn.append((category, *found[int(rng.integers(len(found)))]))
        if num_per_clip < len(drawn):
            drawn = [drawn[number] for number in sorted(rng.permutation(len(drawn))[:num_per_clip])]
        for category, question, answer in drawn:
            columns = {"query": question, "response": answer, "history": []}
            lines.append(json.dumps({**columns, "videos": [f"clips/{clips}_{index:03d}.mp4"], "category": category}))
    return lines


def make(out: Path) -> None:
    """Writes the whole data set into a folder.

    Args:
        out: Gets clips/*.mp4, a JSONL file of each split, and card.yaml; files of the same names are replaced.
    """
    (out / "clips").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(SEED)
    scenes = {}
    rows: dict[str, list[str]] = {}
    for split, num_clips in NUM_CLIPS.items():
        scenes[split] = draw_scenes(rng, num_clips=num_clips)
        rows[split] = []
        for index, scene in enumerate(scenes[split]):
            name = f"clips/{split}_{index:03d}.mp4"
            encode_clip(render_clip(scene, rng=rng), out / name)
            chosen = KEPT_CATEGORIES
            if split == "train":
                # a few known questions beside the new ones keep what the model knows
                chosen = tuple(KEPT_CATEGORIES[i] for i in rng.permutation(len(KEPT_CATEGORIES))[:NUM_TRAIN_KEPT])
            rows[split] += [json.dumps(row) for row in clip_rows(scene, rng=rng, categories=chosen, video=name)]
    replay_rng, general_rng = (np.random.default_rng([SEED, number]) for number in (2, 1))
    rows["replay"] = other_rows(scenes["train"], rng=replay_rng, clips="train", num_per_clip=NUM_REPLAYED)
    rows["general"] = other_rows(scenes["val"][:NUM_GENERAL_CLIPS], rng=general_rng, clips="val")
    for split, lines in rows.items():
        (out / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    write_card(out, counts={split: len(lines) for split, lines in rows.items()})


def write_card(out: Path, *, counts: dict[str, int]) -> None:
    """Writes card.yaml: source, licence, format, counts, and the sha256 of every file."""
    files = [*(out / f"{split}.jsonl" for split in counts), *sorted((out / "clips").glob("*.mp4"))]
    lines = [
        "name: tiny_shapes",
        "summary: coloured shapes that appear, disappear and change colour; teaches when an object is visible",
        "source: generated by make.py in this folder",
        "licence: Apache-2.0",
        "format: query/response/history/videos, one JSON object per line, plus `category`",
        f"seed: {SEED}",
        "splits:",
    ]
    for split, num_rows in counts.items():
        num_clips = {**NUM_CLIPS, "replay": NUM_CLIPS["train"], "general": NUM_GENERAL_CLIPS}[split]
        lines.append(f"  {split}: {{file: {split}.jsonl, rows: {num_rows}, clips: {num_clips}}}")
    lines.append("sha256:")
    for path in files:
        lines.append(f"  {path.relative_to(out).as_posix()}: {hashlib.sha256(path.read_bytes()).hexdigest()}")
    (out / "card.yaml").write_text("\n".join(lines) + "\n")


def main() -> None:
    """Reads the command line and makes the data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    make(parser.parse_args().out)


if __name__ == "__main__":
    main()
