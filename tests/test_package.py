"""What an installed package holds: every file that is not code is named in pyproject.toml, or it would be missing there."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_every_data_file_is_packaged():
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["cvft"]
    packaged = {path for pattern in patterns for path in (ROOT / "cvft").glob(pattern)}
    there = {path for path in (ROOT / "cvft").rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert any(path.suffix == ".j2" for path in there)
    assert there - packaged == set()
