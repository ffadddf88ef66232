"""The tiny world: coloured shapes that appear, disappear and change colour on a 2x2 grid.

`sample_scene` draws a `Scene` (what is where at each second); `render_clip` turns it into uint8 frames (N, 112, 112, 3)
for a video file; `SpriteBank` renders many scenes at one frame per second straight into preprocessed pixels
(B, T, 3, 56, 56).

The grid is 2x2 because the tower of the tiny model ends in 2x2 tokens per frame: one cell is one token, so that reading
a frame is easy and what is left to learn is time. Every event happens half a second before the first second that shows
it, so a clip that is sampled at whole seconds shows the new state without doubt.

Refuses nothing: scenes are made here, not read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

SHAPES: tuple[str, ...] = ("circle", "square", "triangle", "cross")
COLOURS: tuple[str, ...] = ("red", "green", "blue", "yellow", "white", "pink")
COLOUR_RGB: dict[str, tuple[int, int, int]] = {
    "red": (215, 40, 40),
    "green": (40, 180, 70),
    "blue": (50, 80, 225),
    "yellow": (230, 205, 45),
    "white": (235, 235, 235),
    "pink": (230, 95, 190),
}
"""sRGB of each colour: far apart in luma or chroma, so that 4:2:0 subsampling keeps them distinct."""

NUM_KINDS = len(SHAPES) * len(COLOURS)
NUM_CELLS = 4
GRID_SIDE = 2
FRAME_PX = 112
CLIP_FPS = 8
MAX_SECONDS = 8
MAX_THINGS = 3


@dataclass(frozen=True)
class Look:
    """How frames look to a tower.

    Args:
        side_px: Width and height of a preprocessed frame.
        mean: What channels are normalised with, as a fraction of the largest value.
        std: The same for their spread.
    """

    side_px: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


PIXEL_MEAN: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
"""Normalisation of the published preprocessing. Source: CogVLM2 `video_demo` (the CLIP constants)."""

CLIP_LOOK = Look(56, PIXEL_MEAN, PIXEL_STD)
"""The tiny CogVLM2-Video's."""


@dataclass(frozen=True)
class Thing:
    """One object of a scene.

    Args:
        cell: Row-major cell of the 2x2 grid, 0..3.
        shape: One of `SHAPES`.
        colour: One of `COLOURS`, at the start.
        first_s: First second at which it is visible; 0 when it is there from the start.
        last_s: Last second at which it is visible, inclusive.
        change_s: First second at which it shows `new_colour`, or None when it keeps its colour.
        new_colour: The colour after the change, or None.
    """

    cell: int
    shape: str
    colour: str
    first_s: int
    last_s: int
    change_s: int | None = None
    new_colour: str | None = None

    def is_visible(self, second: int) -> bool:
        """Returns whether the thing is in the frame of `second`."""
        return self.first_s <= second <= self.last_s

    def colour_at(self, second: int) -> str:
        """Returns the colour that the thing has (or would have) at `second`."""
        if self.change_s is not None and second >= self.change_s:
            assert self.new_colour is not None
            return self.new_colour
        return self.colour

    def name_at(self, second: int) -> str:
        """Returns "red circle" as of `second`."""
        return f"{self.colour_at(second)} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """A clip's content.

    Args:
        num_seconds: Frames at one per second, i.e. seconds 0..num_seconds - 1.
        things: The objects; no two ever share colour and shape, nor a cell.
    """

    num_seconds: int
    things: tuple[Thing, ...]

    def visible(self, second: int) -> list[Thing]:
        """Returns the things in the frame of `second`, in the order of their cells."""
        return [thing for thing in self.things if thing.is_visible(second)]

    def events(self) -> list[tuple[int, str, Thing]]:
        """Returns (second, "appear" | "disappear" | "change", thing) in the order of time; seconds are distinct."""
        events: list[tuple[int, str, Thing]] = []
        for thing in self.things:
            if thing.first_s > 0:
                events.append((thing.first_s, "appear", thing))
            if thing.change_s is not None:
                events.append((thing.change_s, "change", thing))
            if thing.last_s < self.num_seconds - 1:
                events.append((thing.last_s + 1, "disappear", thing))
        return sorted(events, key=lambda event: event[0])


def sample_scene(rng: np.random.Generator, *, num_seconds: int, max_events: int = 4) -> Scene:
    """Draws a scene with at least one event (when there is room for one) and at most `max_events`, at distinct seconds.

    Args:
        rng: Source of chance.
        num_seconds: Length, 1..`MAX_SECONDS`.
        max_events: Upper limit of events in the clip.

    Returns:
        The scene; its things are sorted by cell.
    """
    limit = min(max_events, num_seconds - 1)
    while True:
        num_things = int(rng.choice((1, 2, 3), p=(0.25, 0.4, 0.35)))
        draws = rng.random((num_things, 3)).tolist()
        flags = [(d[0] < 0.5, d[1] < 0.3, d[2] < 0.5) for d in draws]
        num_events = sum(map(sum, flags))
        if num_events > limit or (num_events == 0 and limit > 0):
            continue
        seconds = rng.permutation(np.arange(1, num_seconds))[:num_events].tolist()
        cells = sorted(rng.permutation(NUM_CELLS)[:num_things].tolist())
        taken: set[tuple[str, str]] = set()
        things = []
        for cell, (appears, changes, disappears) in zip(cells, flags, strict=True):
            own = sorted(seconds.pop() for _ in range(appears + changes + disappears))
            first_s = own.pop(0) if appears else 0
            change_s = own.pop(0) if changes else None
            last_s = own.pop(0) - 1 if disappears else num_seconds - 1
            shape = SHAPES[rng.integers(len(SHAPES))]
            colour, new_colour = (COLOURS[i] for i in rng.permutation(len(COLOURS))[:2])
            keys = {(shape, colour), (shape, new_colour)} if changes else {(shape, colour)}
            if keys & taken:
                break
            taken |= keys
            things.append(Thing(cell, shape, colour, first_s, last_s, change_s, new_colour if changes else None))
        if len(things) == num_things:
            return Scene(num_seconds, tuple(things))


def shape_mask(shape: str, *, side_px: int, radius_px: float, centre_xy: tuple[float, float]) -> np.ndarray:
    """Draws one shape with smooth edges.

    Args:
        shape: One of `SHAPES`.
        side_px: Width and height of the cell.
        radius_px: Half the width of the shape.
        centre_xy: Centre in pixels of the cell.

    Returns:
        Coverage in 0..1, float32 `(side_px, side_px)`.
    """
    grid = (np.arange(side_px * 4, dtype=np.float32) + 0.5) / 4.0
    x, y = grid[None, :] - centre_xy[0], grid[:, None] - centre_xy[1]
    if shape == "circle":
        inside = x**2 + y**2 < radius_px**2
    elif shape == "square":
        inside = np.maximum(abs(x), abs(y)) < 0.86 * radius_px
    elif shape == "triangle":
        inside = (y < 0.8 * radius_px) & (y > 2.0 * abs(x) - 1.05 * radius_px)
    else:
        arm = 0.3 * radius_px
        inside = (np.minimum(abs(x), abs(y)) < arm) & (np.maximum(abs(x), abs(y)) < radius_px)
    covered = inside.astype(np.float32) * np.ones((side_px * 4, side_px * 4), dtype=np.float32)
    return covered.reshape(side_px, 4, side_px, 4).mean(axis=(1, 3))


def _jittered_mask(rng: np.random.Generator, shape: str) -> np.ndarray:
    side = FRAME_PX // GRID_SIDE
    centre = side / 2 + rng.uniform(-4.0, 4.0, size=2)
    return shape_mask(shape, side_px=side, radius_px=float(rng.uniform(17.0, 21.0)), centre_xy=(centre[0], centre[1]))


def _jittered_rgb(rng: np.random.Generator, colour: str) -> np.ndarray:
    return np.clip(np.array(COLOUR_RGB[colour], dtype=np.float32) + rng.uniform(-12, 12, size=3), 0, 255)


def render_clip(scene: Scene, *, rng: np.random.Generator) -> np.ndarray:
    """Renders a scene at `CLIP_FPS`.

    The last frame lies a quarter of a second after the last whole second, so the published sampling (round of the last
    timestamp, plus one) gives exactly `scene.num_seconds` frames.

    Args:
        scene: What to draw.
        rng: Source of the jitter in place, size, colour and brightness, and of the noise.

    Returns:
        uint8 RGB frames `(N, 112, 112, 3)`, N = 8 * (num_seconds - 1) + 3.
    """
    side = FRAME_PX // GRID_SIDE
    background = rng.uniform(18.0, 42.0) + rng.uniform(-4.0, 4.0, size=3)
    gain = rng.uniform(0.92, 1.05)
    masks = [_jittered_mask(rng, thing.shape) for thing in scene.things]
    rgbs = [{colour: _jittered_rgb(rng, colour) for colour in COLOURS} for _ in scene.things]
    frames = []
    for index in range(CLIP_FPS * (scene.num_seconds - 1) + 3):
        second = (index + CLIP_FPS // 2) // CLIP_FPS
        frame = np.tile(background.astype(np.float32), (FRAME_PX, FRAME_PX, 1))
        for thing, mask, rgb in zip(scene.things, masks, rgbs, strict=True):
            if thing.is_visible(second):
                row, column = divmod(thing.cell, GRID_SIDE)
                area = frame[row * side : (row + 1) * side, column * side : (column + 1) * side]
                area += mask[..., None] * (rgb[thing.colour_at(second)] - area)
        noisy = frame * gain + rng.normal(0.0, 2.0, size=frame.shape)
        frames.append(np.clip(np.rint(noisy), 0, 255).astype(np.uint8))
    return np.stack(frames)


def scene_cells(scenes: Sequence[Scene]) -> np.ndarray:
    """Tells what each cell holds at each second.

    Args:
        scenes: Scenes of one length.

    Returns:
        int64 `(B, T, 4)`: 0 for an empty cell, else 1 + shape index * 6 + colour index.
    """
    cells = np.zeros((len(scenes), scenes[0].num_seconds, NUM_CELLS), dtype=np.int64)
    for index, scene in enumerate(scenes):
        for thing in scene.things:
            base = 1 + SHAPES.index(thing.shape) * len(COLOURS)
            cells[index, thing.first_s : thing.last_s + 1, thing.cell] = base + COLOURS.index(thing.colour)
            if thing.change_s is not None and thing.new_colour is not None:
                cells[index, thing.change_s : thing.last_s + 1, thing.cell] = base + COLOURS.index(thing.new_colour)
    return cells


def _shrink(masks: np.ndarray, side_px: int) -> np.ndarray:
    """Shrinks masks (..., M, M) to a side, by halves where that is what it takes."""
    side = masks.shape[-1]
    if side == 2 * side_px:
        return masks.reshape(*masks.shape[:-2], side_px, 2, side_px, 2).mean(axis=(-3, -1))
    import torch

    small = torch.nn.functional.interpolate(
        torch.from_numpy(masks), size=(side_px, side_px), mode="bicubic", antialias=True
    )
    return np.clip(small.numpy(), 0.0, 1.0)


@dataclass
class SpriteBank:
    """Pre-drawn shapes in preprocessed frames, for pre-training without a codec.

    CogVLM2-Video's preprocessing halves a 112 px frame by averaging 2x2 pixels (bilinear without antialias lands exactly
    between them), Qwen's shrinks it by bicubic interpolation with antialias, so shapes can be shrunk once here. What a codec
    adds (chroma bleeding over neighbours, noise) is imitated by a random blur of the chroma and by noise.

    Args:
        seed: Seed of the bank and of everything drawn from it.
        look: Size and normalisation of the frames.
        num_variants: Jittered masks per shape.
    """

    seed: int
    look: Look = CLIP_LOOK
    num_variants: int = 96
    rng: np.random.Generator = field(init=False)
    masks: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        masks = [[_jittered_mask(self.rng, shape) for _ in range(self.num_variants)] for shape in SHAPES]
        self.masks = _shrink(np.stack([np.stack(row) for row in masks]), self.look.side_px // GRID_SIDE)

    def render(self, cells: np.ndarray) -> np.ndarray:
        """Draws one preprocessed frame per second.

        Args:
            cells: `(B, T, 4)` of `scene_cells`.

        Returns:
            Normalised pixels, float32 `(B, T, 3, side_px, side_px)`.
        """
        rng, (num_scenes, num_seconds, _) = self.rng, cells.shape
        half = self.masks.shape[-1]
        shape_of = np.maximum(cells - 1, 0) // len(COLOURS)
        colour_of = np.maximum(cells - 1, 0) % len(COLOURS)
        variants = rng.integers(self.num_variants, size=(num_scenes, 1, NUM_CELLS))
        alpha = self.masks[shape_of, variants] * (cells > 0)[..., None, None]
        table = np.array([COLOUR_RGB[name] for name in COLOURS], dtype=np.float32)
        rgb = table[colour_of] + rng.uniform(-14, 14, size=(num_scenes, 1, NUM_CELLS, 3))
        background = rng.uniform(16.0, 44.0, size=(num_scenes, 1, 1, 1))
        background = background + rng.uniform(-5, 5, size=(num_scenes, 1, 1, 3))
        frames = background[..., None, None] + alpha[:, :, :, None] * (rgb - background)[..., None, None]
        frames = frames.reshape(num_scenes, num_seconds, GRID_SIDE, GRID_SIDE, 3, half, half)
        frames = frames.transpose(0, 1, 4, 2, 5, 3, 6).reshape(num_scenes, num_seconds, 3, 2 * half, 2 * half)
        frames = frames.astype(np.float32) * rng.uniform(0.9, 1.07, size=(num_scenes, 1, 1, 1, 1)).astype(np.float32)
        luma = np.tensordot(frames, np.array([0.299, 0.587, 0.114], dtype=np.float32), axes=([2], [0]))[:, :, None]
        chroma = frames - luma
        padded = np.pad(chroma, ((0, 0), (0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
        blurred = (padded[..., :-2, :] + 2 * padded[..., 1:-1, :] + padded[..., 2:, :]) / 4
        blurred = (blurred[..., :-2] + 2 * blurred[..., 1:-1] + blurred[..., 2:]) / 4
        weight = rng.uniform(0.0, 1.3, size=(num_scenes, 1, 1, 1, 1)).astype(np.float32)
        frames = luma + chroma + weight * (blurred - chroma)
        noise = rng.standard_normal(size=frames.shape, dtype=np.float32)
        frames = frames + noise * rng.uniform(0.5, 4.0, size=(num_scenes, 1, 1, 1, 1)).astype(np.float32)
        frames = np.clip(frames, 0, 255) / 255.0
        mean = np.array(self.look.mean, dtype=np.float32)[:, None, None]
        std = np.array(self.look.std, dtype=np.float32)[:, None, None]
        return ((frames - mean) / std).astype(np.float32)
