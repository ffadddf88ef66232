"""The tiny model for tests: its folder, a writable copy, its processor."""

import shutil
from pathlib import Path

from cvft.families.cogvlm2_video.network.processor import CogVLM2VideoProcessor
from cvft.weights.folder import tiny_checkpoint_path

TINY = tiny_checkpoint_path()


def copy_tiny(folder: Path) -> Path:
    shutil.copytree(TINY, folder)
    return folder


def tiny_processor(template: str = "chat") -> CogVLM2VideoProcessor:
    return CogVLM2VideoProcessor.from_pretrained(TINY, template=template)
