"""The tiny model for tests: its folder, a writable copy, its processor, and what makes inputs of rows."""

import shutil
from pathlib import Path

from cvft.families.cogvlm2_video.network.processor import CogVLM2VideoProcessor
from cvft.families.cogvlm2_video.runtime import RowEncoder
from cvft.shipped import SHIPPED

TINY = SHIPPED["tiny"].folder


def copy_tiny(folder: Path) -> Path:
    shutil.copytree(TINY, folder)
    return folder


def tiny_processor(template: str = "chat") -> CogVLM2VideoProcessor:
    return CogVLM2VideoProcessor.from_pretrained(TINY, template=template)


def tiny_encoder(template: str = "chat", *, sampling: str = "chat") -> RowEncoder:
    return RowEncoder(tiny_processor(template), sampling=sampling)
