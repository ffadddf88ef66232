"""Ready frames as a clip: pictures in files, each with the second at which it was taken -> what a decoder gives of a clip.

Refuses what is no single picture, pictures of several sizes, and those that a frame of a clip may not be like.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cvft.data.video.kinds import READ_PICTURES, name_kind
from cvft.data.video.reader import Frames, check_frame_size, check_num_frames, clip_error
from cvft.data.video.sample import Float32s
from cvft.errors import ClipError

if TYPE_CHECKING:
    from PIL.Image import Image

_KINDS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
"""Pictures that are read, by Pillow's names. With any other, it may run programs of the machine, or read other files."""

_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr")
"""Pictures of 8 bits a channel, by Pillow's names; what is transparent counts as it is stored."""


class ReadyFrames:
    """Pictures in the order of their seconds; see `cvft.data.video.reader.Reader`.

    Args:
        paths: The pictures.
        seconds: The second of each, rising from 0.
        decoder: The decoder of the other clips, for messages.
    """

    notes: tuple[str, ...] = ()

    def __init__(self, paths: Sequence[Path], seconds: Sequence[float], *, decoder: str) -> None:
        assert len(paths) == len(seconds), "a row has a second for each picture"
        check_num_frames(len(paths), path=paths[0], decoder=decoder)
        self._paths = paths
        self._decoder = decoder
        self.is_turned = False
        self.times_s = np.array(seconds, dtype=np.float64)
        self.timestamps_s: Float32s = self.times_s.astype(np.float32)
        # the last one stays as long as the others, and a single one for a second
        step_s = float(self.times_s[-1]) / (len(paths) - 1) if len(paths) > 1 else 1.0
        self.avg_fps = 1 / step_s
        self.duration_s = float(self.times_s[-1]) + step_s
        with self._open(paths[0]) as picture:
            self.size_px = (picture.height, picture.width)

    def read(self, frame_indices: Sequence[int]) -> Frames:
        """Returns the pictures with these indices, uint8 `(len, H, W, 3)`, upright."""
        frames: Frames | None = None
        for slot, index in enumerate(frame_indices):
            path = self._paths[index]
            image = self._read(path)
            if frames is None:
                frames = np.empty((len(frame_indices), *image.shape), dtype=np.uint8)
            if image.shape != frames.shape[1:]:
                (old_height, old_width, _), (height, width, _) = frames.shape[1:], image.shape
                got = f"a picture of {width} x {height} pixels after one of {old_width} x {old_height}"
                raise clip_error(path, decoder=self._decoder, got=got, need="one size", hint="scale them to one size")
            frames[slot] = image
        assert frames is not None, "every rule chooses a frame"
        return frames

    def _read(self, path: Path) -> Frames:
        from PIL import ImageOps

        try:
            with self._open(path) as picture:
                upright = ImageOps.exif_transpose(picture)
                self.is_turned = (
                    self.is_turned or upright.size != picture.size or bool(picture.getexif().get(274, 1) > 1)
                )
                return np.asarray(upright.convert("RGB"), dtype=np.uint8)
        except ClipError:  # which is a `ValueError` too
            raise
        except (OSError, ValueError, SyntaxError, EOFError) as error:  # what Pillow raises of damaged files
            got, hint = f"a picture that is damaged or cut off ({error})", "copy it again"
            raise clip_error(path, decoder=self._decoder, got=got, need="a whole picture", hint=hint) from error

    @contextmanager
    def _open(self, path: Path) -> Iterator[Image]:
        """Opens a picture and looks at its head; its pixels are read later."""
        from PIL import Image, UnidentifiedImageError

        Image.MAX_IMAGE_PIXELS = None  # the limit below is ours
        try:
            picture: Any = Image.open(path, formats=_KINDS)
        except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
            kind = name_kind(path)
            got, hint = "a file that is no picture" if kind is None else kind.name, ""
            if kind is not None and kind.is_picture:
                got, hint = f"{kind.name} that is damaged or cut off", "copy it again"
            raise clip_error(path, decoder=self._decoder, got=got, need=READ_PICTURES, hint=hint) from error
        with picture:
            check_frame_size(picture.width, picture.height, path=path, decoder=self._decoder)
            num_pictures = getattr(picture, "n_frames", 1)
            if num_pictures > 1 or picture.mode not in _MODES:
                got = f"{num_pictures} pictures in a file" if num_pictures > 1 else f"pixels of kind `{picture.mode}`"
                raise clip_error(path, decoder=self._decoder, got=got, need="one picture of 8 bits a channel")
            yield picture
