"""Where a folder says how transformers' processors make pixels of frames. No torch.

processor_config.json `video_processor`, else video_preprocessor_config.json, else preprocessor_config.json, as transformers looks
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal

from cvft.errors import Problem
from cvft.families.generation_file import HINT
from cvft.json_files import JsonError, read_object
from cvft.weights.folder import ModelFolder

NESTING_FILE, IMAGE_FILE = "processor_config.json", "preprocessor_config.json"
PROCESSOR_FILES = (NESTING_FILE, "video_preprocessor_config.json", IMAGE_FILE)
"""Files that transformers builds a video processor of: the first one that is there, and of `NESTING_FILE` its entry
`video_processor`. Source: `get_video_processor_dict` of its 5.19."""

BICUBIC = 3
"""How the files name the cubic filter. Source: Pillow's `Resampling.BICUBIC`."""


def find_settings(
    folder: ModelFolder, kind: Literal["video_processor", "image_processor"] = "video_processor"
) -> tuple[str, Mapping[str, Any] | Problem]:
    """Returns the settings of a folder's processor, and where they stand.

    Args:
        folder: The folder.
        kind: Which of the two processors.

    Returns:
        An empty place with empty settings where no file says anything; the problem of a file that cannot be read.
    """
    if folder.is_absent:
        return "", {}
    for name in PROCESSOR_FILES if kind == "video_processor" else (NESTING_FILE, IMAGE_FILE):
        if not os.path.lexists(folder.path / name):
            continue
        try:
            values = read_object(folder.path / name)
        except JsonError as error:
            return name, Problem(name, str(error), "the published file", HINT)
        if name != NESTING_FILE:
            return name, values
        if isinstance(nested := values.get(kind), dict):
            return f"{name}: {kind}", nested
    return "", {}


def read_stated(folder: ModelFolder, name: str) -> Mapping[str, Any]:
    """Returns what one file of a folder says; nothing of one that is absent, or broken and refused by who reads it first."""
    try:
        return read_object(folder.path / name) if os.path.lexists(folder.path / name) else {}
    except JsonError:
        return {}
