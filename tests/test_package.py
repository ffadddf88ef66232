"""What is built to be installed elsewhere: a wheel that runs the demo, and an sdist of which wheel and tests can be made."""

import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from cvft.data.rows import read_rows
from cvft.recipe import load_recipe
from cvft.shipped import DEMO_RECIPE, find_examples
from tests.project import HANG_S, cvft, cvft_ok, files_under

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def tracked() -> list[str]:
    """The files of the project: those that git tracks, or would."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "-co", "--exclude-standard"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip("no checkout: git knows what belongs to the project")
    return [name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def build(kind: str, source: Path, out: Path) -> Path:
    """Builds as pip does, without a network; returns the file."""
    code = f"from setuptools import build_meta; print('built', build_meta.build_{kind}({str(out)!r}))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=source, capture_output=True, text=True, timeout=HANG_S, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return out / done.stdout.splitlines()[-1].removeprefix("built ")


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> Path:
    source = tmp_path_factory.mktemp("checkout")
    for name in tracked():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    return build("sdist", source, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory) -> Path:
    """Built from the sdist, so that this holds what a wheel needs."""
    unpacked = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(unpacked, filter="data")
    (source,) = unpacked.iterdir()
    return build("wheel", source, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def package(wheel, tmp_path_factory) -> Path:
    """The folder into which the wheel is unpacked: what an installation holds."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def test_every_data_file_is_packaged():
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["cvft"]
    packaged = {path for pattern in patterns for path in (ROOT / "cvft").glob(pattern)}
    there = {path for path in (ROOT / "cvft").rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert any(path.suffix == ".j2" for path in there)
    assert there - packaged == set()


def test_the_sdist_holds_the_whole_project(sdist):
    with tarfile.open(sdist) as archive:
        held = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    assert sorted(set(tracked()) - held) == []
    generated = {"PKG-INFO", "setup.cfg"}
    assert sorted(name for name in held - set(tracked()) - generated if not name.startswith("cvft.egg-info/")) == []


def test_the_wheel_holds_the_package_and_the_examples(package):
    own = {name for name in tracked() if name.startswith("cvft/")}
    examples = {
        f"cvft/examples/{name}"
        for name in tracked()
        if name.startswith(("recipes/", "datasets/tiny_shapes/")) and not name.endswith(".py")
    }
    assert len(examples) > 100
    held = {path.relative_to(package).as_posix() for path in package.rglob("*") if path.is_file()}
    assert {name for name in held if ".dist-info/" not in name} == own | examples
    assert (package / "cvft" / "py.typed").is_file()


def test_the_wheel_says_what_it_is_and_needs(package):
    (info,) = package.glob("*.dist-info")
    said = Parser().parsestr((info / "METADATA").read_text())
    assert said["Version"] == cvft_ok("--version").stdout.split()[1]
    assert said["Requires-Python"] == PROJECT["project"]["requires-python"]
    assert set(said.get_all("Provides-Extra")) == set(PROJECT["project"]["optional-dependencies"])
    assert "cvft = cvft.cli.main:main" in (info / "entry_points.txt").read_text()
    assert said.get_payload() == (ROOT / "README.md").read_text()


def test_examples_are_found_in_a_wheel_and_in_a_checkout_and_missed_in_neither(package, tmp_path):
    assert find_examples() == ROOT
    examples = find_examples(package / "cvft")
    assert examples == package / "cvft" / "examples"
    loaded = load_recipe(examples / DEMO_RECIPE)
    assert [len(read_rows(file.path)) for file in loaded.recipe.data.train] == [374, 128]
    shutil.copytree(package / "cvft", tmp_path / "cvft", ignore=shutil.ignore_patterns("examples", "*.safetensors"))
    result = cvft("demo", env={**os.environ, "PYTHONPATH": str(tmp_path)}, cwd=tmp_path)
    assert (result.returncode, result.stderr.splitlines()[0]) == (2, "this installation has 1 problem")
    assert "got a package without it, need the demo's recipe, rows and clips" in result.stderr


def test_what_the_demo_writes_is_a_project_to_start_from(tmp_path):
    done = cvft_ok("demo", "--write", "shapes", cwd=tmp_path)
    assert done.stdout == "recipe    shapes/recipes/tiny_cpu.yaml\nrows      shapes/datasets/tiny_shapes\n"
    written = [
        f"{folder}/{name}" for folder in ("recipes", "datasets") for name in files_under(tmp_path / "shapes" / folder)
    ]
    assert files_under(tmp_path) == sorted(f"shapes/{name}" for name in written)
    loaded = load_recipe(tmp_path / "shapes" / DEMO_RECIPE)
    assert len(read_rows(loaded.recipe.data.val)) == 330
    again = cvft("demo", "--write", "shapes", "lora.rank=4", cwd=tmp_path)
    assert again.returncode == 2
    assert again.stderr == (
        "command line has 2 problems\n"
        "  argument: got `lora.rank=4`, need no settings beside --write\n"
        "    hint: change the recipe that is written, or give them to `cvft run`\n"
        "  --write: got `shapes` (it exists), need a new folder that can be written\n"
    )


@pytest.mark.long
def test_an_installed_wheel_runs_the_demo(wheel, tmp_path):
    """In an environment of its own, outside the checkout; its packages are those of this one, which CI has installed."""
    environment = tmp_path / "venv"
    venv.create(environment, with_pip=True)
    (site,) = environment.glob("lib/python*/site-packages")
    packages = [entry for entry in sys.path if entry.endswith("site-packages")]
    python = environment / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", str(wheel)]
    subprocess.run(install, check=True, timeout=HANG_S)
    (site / "packages.pth").write_text("\n".join(packages) + "\n")  # after the wheel's own
    shell = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    outside = tmp_path / "outside"
    outside.mkdir()
    words = [environment / "bin" / "cvft", "demo"]
    done = subprocess.run(words, cwd=outside, env=shell, capture_output=True, text=True, timeout=HANG_S, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    run = outside / "runs" / "tiny_cpu"
    assert (run / "report.html").is_file()
    assert str(site / "cvft" / "examples") in (run / "recipe.yaml").read_text()
