"""Where the golden vectors lie: `tests/golden`, or the folder named by CVFT_GOLDEN_DIR."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import safe_open

SHIPPED = Path(__file__).parent / "golden"


def golden_folder() -> Path:
    return Path(os.environ.get("CVFT_GOLDEN_DIR") or SHIPPED)


def golden_files(pattern: str) -> list[Path]:
    """Every file of the golden folder that matches; an empty list would make tests vanish, so it is an error."""
    found = sorted(golden_folder().glob(pattern))
    assert found, f"no {pattern} in {golden_folder()}"
    return found


def golden_file(name: str) -> Path:
    """One file of the golden folder; a folder with vectors of other kinds may lack it, and the shipped one serves."""
    found = golden_folder() / name
    return found if found.is_file() else SHIPPED / name


class GoldenModel:
    """One `model_*.safetensors`: configuration, weights and cases."""

    def __init__(self, file: Any) -> None:
        self.file = file
        self.keys = list(file.keys())
        self.metadata = file.metadata()
        self.config = json.loads(self.metadata["config"])

    def weights(self) -> dict[str, Any]:
        return {k.removeprefix("weights."): self.file.get_tensor(k) for k in self.keys if k.startswith("weights.")}

    def cases(self) -> list[str]:
        found = sorted({k.split(".")[0] for k in self.keys if k.startswith("case")})
        assert found
        return found

    def case(self, name: str) -> dict[str, Any]:
        prefix = f"{name}."
        return {k.removeprefix(prefix): self.file.get_tensor(k) for k in self.keys if k.startswith(prefix)}


@contextmanager
def open_golden_model(path: Path) -> Iterator[GoldenModel]:
    with safe_open(path, "pt") as file:
        yield GoldenModel(file)
