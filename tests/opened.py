"""Tiny random folders of the families that run in transformers' own classes, made and opened as a worker opens them."""

from pathlib import Path

import numpy as np

from cvft.clips.source import ClipInputs
from cvft.data.rows import Row
from cvft.data.video.decode import Clip
from cvft.families.runtime import Loading, load_runtime
from cvft.families.table import find_family
from cvft.recipe import Recipe
from cvft.weights.folder import ModelFolder
from tests import any_swift_tiny, glm4v_tiny, internvl_tiny, qwen_tiny
from tests.qwen_tiny import WORDS

MAKERS = {
    **dict.fromkeys(qwen_tiny.CLASSES, qwen_tiny.make_qwen_folder),
    **dict.fromkeys(internvl_tiny.KINDS, internvl_tiny.make_internvl_folder),
    **dict.fromkeys(any_swift_tiny.KINDS, any_swift_tiny.make_any_swift_folder),
    **dict.fromkeys(glm4v_tiny.KINDS, glm4v_tiny.make_glm4v_folder),
}

SMALL_FRAMES = {"min_frame_tokens": 4, "max_frame_tokens": 16}


class Opened:
    """A tiny folder, opened as a worker opens it.

    Args:
        path: Where to make it.
        kind: One of `MAKERS`.
        sections: Sections of the recipe.
    """

    def __init__(self, path, kind, **sections):
        MAKERS[kind](path, kind)
        self.folder = ModelFolder.of(path)
        self.family = find_family(self.folder)
        budget = SMALL_FRAMES if "video.max_frame_tokens" in self.family.settings else {}
        video = {"max_frames": 6, **budget, **sections.pop("video", {})}
        recipe = Recipe(model={"path": str(path), **sections.pop("model", {})}, data={"train": Path("x")}, video=video)
        self.how = self.family.preprocessing(recipe, self.folder)
        self.runtime = load_runtime(self.family)
        self.encoder = self.runtime.encoder(self.folder, self.how)

    def load(self, **options):
        return self.runtime.load(self.folder, self.how, Loading("fp32", **options))

    def clip(self, *, num_frames, height=64, width=96, seed=0):
        """A random clip at 2 frames a second."""
        frames = np.random.default_rng(seed).integers(0, 256, (num_frames, height, width, 3), dtype=np.uint8)
        seconds = np.arange(num_frames, dtype=np.float32) / 2
        clip = Clip(frames, seconds, tuple(range(num_frames)), num_frames, 2.0, num_frames / 2, "pyav")
        return ClipInputs(self.encoder.clip(clip), clip.view)

    @property
    def takes_several(self):
        """Whether a row may show several clips."""
        return self.family.name in qwen_tiny.CLASSES

    def rows(self, *, num_rows, clip, seed, with_response=True):
        """Encoded rows about one clip, or a tuple of them, of different length, some with earlier turns."""
        clips = clip if isinstance(clip, tuple) else () if clip is None else (clip,)
        rng = np.random.default_rng(seed)

        def words(most):
            return " ".join(WORDS[number] for number in rng.integers(len(WORDS), size=rng.integers(1, most)))

        rows = [
            Row(words(9), words(6), ((words(5), words(4)),) * (number % 3), (), source=Path(), line=number)
            for number in range(num_rows)
        ]
        return [self.encoder.encode(row, clips, with_response=with_response) for row in rows]
