"""No process of ours imports a file that happens to lie in the folder where a command is typed, and none calls anybody."""

import json
import os
import site
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.project import HANG_S, make_project

REPOSITORY = Path(__file__).parent.parent
OURS = ("cvft", "tests")
STEPS = {"max_steps": 2, "save_steps": 2, "num_workers": 1}


@pytest.fixture
def trap(tmp_path) -> Path:
    """A folder with a file for every module that is installed or comes with Python; each leaves a note when it is imported."""
    folder = tmp_path / "trap"
    folder.mkdir()
    names = {name for name in packages_distributions() if name.isidentifier()} | set(sys.stdlib_module_names)
    assert {"swift", "av", "datasets", "torch", "numpy", "json", "typing"} <= names
    for name in names - set(OURS):
        note = folder.parent / "imported"
        code = f"import os\nos.close(os.open({str(note / name)!r}, os.O_CREAT | os.O_WRONLY))\nraise SystemExit({name!r})\n"
        (folder / f"{name}.py").write_text(code)
    (tmp_path / "imported").mkdir()
    return folder


def run_in(folder: Path, *words: object, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cvft", *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), **variables}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=HANG_S, check=False
    )


WATCHER = """
import json, os, socket, sys
LOG = os.environ["CVFT_TEST_NETWORK_LOG"]
def note(**values):
    with open(LOG, "a") as file:
        file.write(json.dumps({"pid": os.getpid(), **values}) + "\\n")
def watch(event, args):
    if event == "socket.getaddrinfo" or (event == "socket.connect" and args[0].family in (socket.AF_INET, socket.AF_INET6)):
        note(event=event, args=repr(args[1:] if event == "socket.connect" else args))
        raise OSError("the network is cut")
sys.addaudithook(watch)
note(event="started")
"""
"""A `sitecustomize` module: Python runs it at the start of every process that inherits PYTHONPATH. It cuts the network."""


def test_the_whole_job_imports_nothing_from_the_current_folder_and_calls_nobody(tmp_path, trap, monkeypatch):
    (tmp_path / "watch").mkdir()
    (tmp_path / "watch" / "sitecustomize.py").write_text(WATCHER)
    log = tmp_path / "network.jsonl"
    recipe = make_project(tmp_path / "project", train=STEPS)
    # what the shell of a test run may set must not be what keeps the job offline
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    path = os.pathsep.join(map(str, (tmp_path / "watch", REPOSITORY)))
    assert_nothing_imported(trap, run_in(trap, "run", recipe, PYTHONPATH=path, CVFT_TEST_NETWORK_LOG=str(log)))
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert len({event["pid"] for event in events}) >= 3  # command line, worker, decoder: all were watched
    assert [event for event in events if event["event"] != "started"] == []


def test_two_ranks_import_nothing_from_the_current_folder(tmp_path, trap):
    recipe = make_project(tmp_path / "project", train=STEPS)
    settings = ["parallel.strategy=ddp", "parallel.num_gpus=2", "video.cache_features=off"]
    assert_nothing_imported(trap, run_in(trap, "train", recipe, *settings))


def assert_nothing_imported(trap: Path, result: subprocess.CompletedProcess[str]) -> None:
    assert result.returncode == 0, result.stderr[-3000:]
    assert list(trap.with_name("imported").iterdir()) == []
    assert not list(trap.glob("__pycache__"))


def test_the_trap_works(tmp_path, trap):
    result = subprocess.run(
        [sys.executable, "-c", "import av"], cwd=trap, capture_output=True, text=True, timeout=HANG_S, check=False
    )
    assert result.returncode == 1
    assert (tmp_path / "imported" / "av").exists()


CHILD = """
import subprocess, sys
from cvft.imports import python_environment
import os
code = "import cvft, sys; print(cvft.__file__); print(sys.flags.no_user_site, sys.flags.safe_path); print(sys.path)"
subprocess.run([sys.executable, "-c", code], env=python_environment(os.environ), check=True)
"""


@pytest.mark.parametrize("stated", ["REPO", ":REPO", "REPO:", "::REPO::", "/nowhere:REPO"])
def test_an_empty_entry_of_the_path_does_not_mean_the_current_folder_to_a_child(tmp_path, stated):
    environment = {**os.environ, "PYTHONPATH": stated.replace("REPO", str(REPOSITORY)), "PYTHONSAFEPATH": "1"}
    result = subprocess.run(
        [sys.executable, "-c", CHILD],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    file, flags, path = result.stdout.splitlines()
    assert Path(file) == REPOSITORY / "cvft" / "__init__.py"
    assert flags == "1 True"
    assert str(tmp_path) not in path
    assert "''" not in path


def make_user_site(base: Path, *names: str) -> Path:
    folder = base / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    folder.mkdir(parents=True)
    for name in names:
        (folder / f"{name}.py").write_text("")
    return folder


@pytest.mark.parametrize(("names", "needed"), [((), False), (("torch", "yaml"), False), (("only_here",), True)])
def test_the_users_own_packages_count_only_where_ours_are_among_them(tmp_path, monkeypatch, names, needed):
    from cvft import imports

    folder = make_user_site(tmp_path, *names)
    monkeypatch.setattr(site, "ENABLE_USER_SITE", True)
    monkeypatch.setattr(site, "getusersitepackages", lambda: str(folder))
    monkeypatch.setattr(imports, "ALSO_NEEDED", (*imports.ALSO_NEEDED, "only_here"))
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    assert imports.needs_user_site() is needed
    assert ("PYTHONNOUSERSITE" in imports.python_environment({})) is not needed
    imports.leave_user_site()
    assert (str(folder) in sys.path) is needed
