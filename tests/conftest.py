"""One thread for every test and its subprocesses: the models are tiny, and more threads only wait for each other."""

import json
import os
import shutil
from pathlib import Path

import pytest

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture(scope="session")
def full_size(tmp_path_factory) -> list[str]:
    """Settings for a model of the published sizes of which config.json and a tokenizer are there, and no weights."""
    from cvft.families.cogvlm2_video.tensors import PUBLISHED_SIZES
    from cvft.weights.folder import tiny_checkpoint_path

    folder, tiny = tmp_path_factory.mktemp("model"), tiny_checkpoint_path()
    config = json.loads((tiny / "config.json").read_text())
    vision = {**PUBLISHED_SIZES["vision_config"], "image_size": 224}
    config |= {**PUBLISHED_SIZES, "vision_config": vision, "architectures": ["CogVLMVideoForCausalLM"]}
    (folder / "config.json").write_text(json.dumps(config))
    shutil.copy(tiny / "tokenizer.json", folder)
    shapes = Path(__file__).parent.parent / "datasets" / "tiny_shapes"
    rows = [f"data.{name}={shapes / f'{name}.jsonl'}" for name in ("train", "val")]
    return [f"model.path={folder}", *rows]
