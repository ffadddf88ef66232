"""The tiny model for tests: its folder, a writable copy, its processor, and what makes inputs of rows."""

import json
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

from cvft.families.cogvlm2_video.network.processor import CogVLM2VideoProcessor
from cvft.families.cogvlm2_video.runtime import RowEncoder
from cvft.shipped import SHIPPED

TINY = SHIPPED["tiny"].folder


def copy_tiny(folder: Path) -> Path:
    shutil.copytree(TINY, folder)
    return folder


def make_endless(folder: Path) -> Path:
    """Makes a model that never ends an answer: the end is never the likeliest token."""
    copy = copy_tiny(folder / "cogvlm2-video-llama3-chat")
    eos = json.loads((copy / "config.json").read_text())["eos_token_id"]
    weights = load_file(copy / "model.safetensors")
    weights["lm_head.weight"][eos] = 0
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    return copy


def tiny_processor(template: str = "chat") -> CogVLM2VideoProcessor:
    return CogVLM2VideoProcessor.from_pretrained(TINY, template=template)


def tiny_encoder(template: str = "chat", *, sampling: str = "chat") -> RowEncoder:
    return RowEncoder(tiny_processor(template), sampling=sampling)
