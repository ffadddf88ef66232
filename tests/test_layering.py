"""Arrows between rooms point one way: what a room may import, read from the code itself."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "cvft"

MAY_IMPORT = {
    "errors": set(),
    "_autoload": {"model"},
    "recipe": {"errors"},
    "data": {"recipe", "errors"},
    "model": {"errors", "_autoload"},
    "clips": {"data", "model", "errors"},
    "engine": {"recipe", "data", "model", "clips", "errors"},
    "evaluate": {"recipe", "data", "model", "clips", "errors"},
    "export": {"recipe", "model", "errors"},
    "report": {"recipe", "errors"},
    "pipeline": {"recipe", "data", "model", "engine", "evaluate", "export", "report", "errors"},
    "publish": {"recipe", "data", "model", "engine", "export", "errors"},
    "cli": {"recipe", "model", "engine", "evaluate", "pipeline", "publish", "errors"},
    "__main__": {"cli"},
    "__init__": {"_autoload"},
}
"""A room is a folder or a file of the package; importing inside a function counts like any other import."""

WITHOUT_TORCH = ("errors", "recipe", "data", "report")
SPEAKS_SWIFT = {"engine/swift_plugin.py", "engine/trainer.py", "engine/worker.py"}


def modules() -> list[Path]:
    found = sorted(PACKAGE.rglob("*.py"))
    assert len(found) > 40
    return found


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Full dotted names that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_room_imports_only_what_it_may(path):
    room = room_of(path)
    rooms = {name.split(".")[1] for name in imported(path) if name.startswith("cvft.")}
    assert rooms - {room, "__version__"} <= MAY_IMPORT[room]


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_the_seam_speaks_ms_swift(path):
    if any(name.split(".")[0] == "swift" for name in imported(path)):
        assert str(path.relative_to(PACKAGE)) in SPEAKS_SWIFT


@pytest.mark.parametrize("room", WITHOUT_TORCH)
def test_torch_free_rooms_do_not_import_torch(room):
    files = [path for path in modules() if room_of(path) == room]
    assert files
    for path in files:
        assert not {name.split(".")[0] for name in imported(path)} & {"torch", "transformers", "peft"}, path


@pytest.mark.parametrize(
    "module",
    [
        "cvft",
        "cvft.cli.main",
        "cvft.train.run",
        "cvft.pipeline",
        "cvft.families.cogvlm2_video.layout",
        "cvft.weights.folder",
    ],
)
def test_importing_the_parent_side_loads_no_torch(module):
    code = f"import sys, {module}\nprint([name for name in ('torch', 'transformers', 'swift') if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_data_folders_hide_no_library():
    for folder in ("datasets", "recipes"):
        assert not list((PACKAGE.parent / folder).rglob("__init__.py"))
