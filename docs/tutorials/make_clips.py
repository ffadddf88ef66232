"""Makes the clips of two tutorials, and what somebody would have written about them: real mp4 files of the tiny world.

    python docs/tutorials/make_clips.py captions FOLDER     labelled/*.mp4 with captions.csv, new/*.mp4 without
    python docs/tutorials/make_clips.py checks FOLDER       clips/*.mp4 with train.jsonl, val.jsonl: yes/no questions about each

The same seed and the same PyAV build give the same bytes.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from pathlib import Path

import numpy as np

from cvft.tiny.world import MAX_SECONDS, Scene, render_clip, sample_scene

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "datasets" / "tiny_shapes"))
from make import encode_clip

SEED = 20261126
NUM_LABELLED, NUM_NEW = 64, 6
NUM_TRAIN, NUM_VAL = 48, 16
MAX_CHECKS = 5
"""Checks of a clip that hold, at most, and that do not."""

QUESTION = "What happens in this clip?"

WORDS = {"appear": "{} appears at {}", "disappear": "{} disappears at {}", "change": "{} turns {} at {}"}


def draw_scenes(*, num_clips: int, seed: int, max_events: int) -> list[Scene]:
    """Draws scenes of four seconds and more."""
    rng = np.random.default_rng([SEED, seed])
    return [
        sample_scene(rng, num_seconds=int(rng.integers(4, MAX_SECONDS + 1)), max_events=max_events)
        for _ in range(num_clips)
    ]


def caption(scene: Scene) -> str:
    """Says what happens in a clip of one event, as somebody would who has watched it."""
    ((second, kind, thing),) = scene.events()
    names = (f"{thing.colour} {thing.shape}", thing.new_colour) if kind == "change" else (thing.name_at(second),)
    return WORDS[kind].format(*names, second)


def checks_of(scene: Scene, *, rng: np.random.Generator) -> list[tuple[str, bool]]:
    """Draws what a prompt may have asked for, and whether the clip shows it, as somebody would say who has watched it.

    As many hold as do not, over all clips, so that always answering yes or no is right half of the time.
    """
    drawn: list[tuple[str, bool]] = []
    names = sorted({thing.name_at(second) for second in range(scene.num_seconds) for thing in scene.things})
    shown = [(name, second, _shows(scene, name, second)) for name in names for second in range(scene.num_seconds)]
    for holds in (True, False):
        fitting = [(name, second) for name, second, is_shown in shown if is_shown is holds]
        for index in rng.permutation(len(fitting))[: int(rng.integers(1, MAX_CHECKS + 1))]:
            name, second = fitting[index]
            drawn.append((f"The prompt asked for a {name} at second {second}. Is it there?", holds))
    return drawn


def _shows(scene: Scene, name: str, second: int) -> bool:
    return any(thing.name_at(second) == name for thing in scene.visible(second))


def write_clips(scenes: list[Scene], folder: Path) -> list[Path]:
    """Writes a clip of each scene, in two digits of its number and more."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng([SEED, len(scenes)])
    paths = []
    for number, scene in enumerate(scenes):
        paths.append(folder / f"clip_{number:03d}.mp4")
        encode_clip(render_clip(scene, rng=rng), paths[-1], preset="ultrafast")
    return paths


def make_captions(folder: Path) -> None:
    """Writes clips with captions, and some without."""
    scenes = draw_scenes(num_clips=NUM_LABELLED, seed=1, max_events=1)
    clips = write_clips(scenes, folder / "labelled")
    with open(folder / "captions.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["video", "question", "caption"])
        for clip, scene in zip(clips, scenes, strict=True):
            writer.writerow([clip.relative_to(folder), QUESTION, caption(scene)])
    write_clips(draw_scenes(num_clips=NUM_NEW, seed=2, max_events=1), folder / "new")


def make_checks(folder: Path) -> None:
    """Writes clips with an answer to each check."""
    scenes = draw_scenes(num_clips=NUM_TRAIN + NUM_VAL, seed=3, max_events=4)
    clips = write_clips(scenes, folder / "clips")
    rng = np.random.default_rng([SEED, 4])
    lines = []
    for clip, scene in zip(clips, scenes, strict=True):
        videos = [str(clip.relative_to(folder))]
        rows = [
            {"query": query, "response": "yes" if holds else "no", "videos": videos}
            for query, holds in checks_of(scene, rng=rng)
        ]
        lines.append([json.dumps(row) for row in rows])
    for name, of_clips in (("train", lines[:NUM_TRAIN]), ("val", lines[NUM_TRAIN:])):
        (folder / f"{name}.jsonl").write_text(
            "".join(f"{line}\n" for rows in of_clips for line in rows), encoding="utf-8"
        )


MAKE = {"captions": make_captions, "checks": make_checks}


def main() -> None:
    """Reads the command line and makes the clips."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=MAKE)
    parser.add_argument("folder", type=Path, help="a new folder")
    options = parser.parse_args()
    options.folder.mkdir(parents=True)
    MAKE[options.what](options.folder)


if __name__ == "__main__":
    main()
