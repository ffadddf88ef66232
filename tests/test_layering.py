"""Arrows between rooms point one way, at the depth of sub-rooms: what each may import, read from the code itself.

Each check is a function over a tree of files, so that the last tests can run it on a copy of the package with a breach planted.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.facts import facts_of

PACKAGE = Path(__file__).parent.parent / "cvft"

SUB_ROOMS = (
    "families/any_swift/network",
    "families/any_swift/runtime.py",
    "families/any_swift",
    "families/cogvlm2_video/network",
    "families/cogvlm2_video/runtime.py",
    "families/cogvlm2_video",
    "families/qwen_vl/network",
    "families/qwen_vl/runtime.py",
    "families/qwen_vl",
    "families/internvl/network",
    "families/internvl/runtime.py",
    "families/internvl",
    "families/glm4v/network",
    "families/glm4v/runtime.py",
    "families/glm4v",
    "families/network",
    "families/table.py",
    "data/video",
    "data/features",
    "data/doctor",
    "data/fetch",
    "evaluate/metrics",
    "evaluate/uncertainty.py",
    "cli/commands",
    "evaluate/judge",
)
"""Rooms inside rooms; every other room is a folder or a file of the package."""

MAY_IMPORT = {
    # ground
    "errors": "",
    "shipped": "",
    "dtypes": "",
    "tables": "",
    "files": "errors",
    "jsonl": "errors",
    "json_files": "errors jsonl",
    "imports": "",
    "versions": "",
    "processes": "",
    "cards": "",
    "row_formats": "",
    # no torch
    "recipe": "errors shipped cards row_formats",
    "weights": "errors shipped files jsonl json_files dtypes",
    "data/video": "errors files imports",
    "data/features": "errors files dtypes weights",
    "data/fetch": "__init__ errors files data/video",
    "data": "__init__ row_formats errors json_files files jsonl data/video data/fetch cards",
    "data/doctor": "row_formats errors files jsonl data data/video data/fetch",
    "evaluate/uncertainty": "",
    "evaluate/metrics": "data evaluate/uncertainty",
    "families": "errors json_files recipe data data/video weights",
    "families/cogvlm2_video": "errors json_files recipe data data/video weights families",
    "families/qwen_vl": "errors json_files recipe data data/video weights families",
    "families/internvl": "errors json_files recipe data data/video weights families",
    "families/glm4v": "errors json_files recipe data data/video weights families",
    "families/any_swift": "errors imports processes json_files recipe data data/video weights families",
    "families/table": (
        "errors families families/any_swift families/cogvlm2_video families/qwen_vl families/internvl families/glm4v weights"
    ),
    "progress": "",
    "runs": "errors json_files files recipe",
    "manifest": "errors json_files runs",
    "training_log": "errors jsonl",
    "plan": (
        "errors json_files files jsonl dtypes recipe data data/video data/features data/doctor weights families "
        "families/table runs manifest data/fetch evaluate/metrics cards"
    ),
    "doctor_env": "__init__ errors imports jsonl versions data/video recipe plan",
    # torch
    "families/network": "errors dtypes weights families",
    "families/cogvlm2_video/network": "errors weights families families/network families/cogvlm2_video",
    "families/qwen_vl/network": "errors data data/video weights families families/network families/qwen_vl",
    "families/internvl/network": "errors data data/video weights families families/network families/internvl",
    "families/any_swift/network": "errors data data/video weights families families/network families/any_swift",
    "families/any_swift/runtime": (
        "errors dtypes json_files weights families families/network families/any_swift families/any_swift/network"
    ),
    "families/glm4v/network": "errors data data/video weights families families/network families/glm4v",
    "families/glm4v/runtime": "dtypes weights families families/network families/glm4v families/glm4v/network",
    "families/internvl/runtime": (
        "dtypes weights families families/network families/internvl families/internvl/network"
    ),
    "families/cogvlm2_video/runtime": (
        "dtypes data data/video weights families families/network families/cogvlm2_video families/cogvlm2_video/network"
    ),
    "families/qwen_vl/runtime": "dtypes weights families families/network families/qwen_vl families/qwen_vl/network",
    "clips": "errors dtypes data data/video data/features weights families plan",
    "train": (
        "__init__ errors files jsonl imports versions processes recipe data data/video data/features weights families "
        "families/table runs plan clips data/fetch evaluate/metrics training_log predict families/network progress"
    ),
    "predict": (
        "errors shipped files jsonl dtypes imports processes recipe data data/video data/features weights families "
        "families/table runs manifest plan clips data/fetch"
    ),
    "export": "errors json_files files dtypes tables recipe data weights families families/table runs manifest plan "
    "predict",
    "evaluate": (
        "errors files jsonl recipe data weights families runs plan predict evaluate/metrics evaluate/uncertainty"
    ),
    "evaluate/judge": "data errors files json_files jsonl runs evaluate evaluate/uncertainty",
    # results for people
    "handover": "errors dtypes files jsonl data data/video families plan predict recipe runs",
    "report": (
        "errors files tables recipe data data/video data/doctor families runs manifest plan export evaluate "
        "evaluate/judge evaluate/metrics evaluate/uncertainty training_log"
    ),
    "serve": "errors data data/video data/fetch families clips predict report",
    "pipeline": "errors recipe runs manifest plan train predict export evaluate report",
    "cli": "__init__ row_formats errors imports recipe",
    "cli/commands": (
        "errors files recipe data data/video data/doctor families/table runs plan clips train predict export evaluate "
        "evaluate/judge report pipeline serve handover cli data/fetch cards shipped doctor_env progress"
    ),
    # beside
    "tiny": "data/video families families/network families/cogvlm2_video/network families/qwen_vl",
    "_autoload": "families/cogvlm2_video/network",
    "api": "recipe data data/fetch predict pipeline",
    "__init__": "_autoload api",
    "__main__": "cli",
}
"""Importing inside a function, or for types alone, counts like any other import. Every permission here is used."""

TORCH = {"torch", "transformers", "peft", "accelerate", "bitsandbytes"}
WITHOUT_TORCH = (
    *(
        "errors",
        "shipped",
        "cards",
        "row_formats",
        "dtypes",
        "tables",
        "files",
        "jsonl",
        "json_files",
        "imports",
        "versions",
        "processes",
        "recipe",
        "weights",
        "data",
        "data/video",
        "data/features",
        "data/doctor",
        "data/fetch",
        "evaluate/metrics",
        "evaluate/uncertainty",
        "families",
    ),
    *(
        "families/any_swift",
        "families/cogvlm2_video",
        "families/qwen_vl",
        "families/internvl",
        "families/glm4v",
        "families/table",
        "runs",
        "manifest",
        "training_log",
        "plan",
        "doctor_env",
        "progress",
        "evaluate/judge",
        "report",
        "cli",
        "cli/commands",
        "pipeline",
        "serve",
        "handover",
    ),
)
SPEAKS_SWIFT = ("train/worker.py", "train/swift_plugin.py", "train/trainer.py")
STARTS_PROCESSES = (
    "train/launch.py",
    "predict/ranks.py",
    "train/tracking.py",
    "versions.py",
    "doctor_env/probe.py",
    "data/video/process.py",
    "plan/machine.py",
    "train/prove.py",  # groups are proven on a loaded model before the plan is made
    "families/any_swift/layouts.py",  # lengths are asked of ms-swift, which nobody who plans imports
)
SPEAKS_HTTP = ("data/fetch/download.py", "evaluate/judge/endpoint.py", "handover/parity.py")
HTTP_CLIENTS = {"httpx", "httpcore", "requests", "aiohttp", "urllib3", "urllib.request", "http.client", "pycurl"}
PRINTS = ("cli/", "train/launch.py", "tiny/", "handover/parity.py", "doctor_env/probe_main.py")
"""`parity.py` is copied out of the package and runs by itself; `probe_main.py` is a program too, asked through a pipe."""
NAMES_A_FAMILY = (
    "families/any_swift/",
    "families/cogvlm2_video/",
    "families/qwen_vl/",
    "families/internvl/",
    "families/glm4v/",
    "families/table.py",
    "shipped.py",
    "_autoload.py",
    "tiny/",
)
FAMILY_NAMES = "any_swift|llava_onevision|idefics3|cogvlm|CogVLM|qwen_vl|qwen[23]_|internvl|glm4v"
NEVER_IMPORTED = ("tiny",)
"""The program that pre-trained the tiny model: only `datasets/` and tests use it."""


def files_of(package: Path) -> list[Path]:
    found = sorted(package.rglob("*.py"))
    assert len(found) > 100
    return found


def room_of(path: Path, package: Path) -> str:
    name = path.relative_to(package).as_posix()
    for room in SUB_ROOMS:
        if name == room or name.startswith(f"{room}/"):
            return room.removesuffix(".py")
    return name.partition("/")[0].removesuffix(".py")


def file_of(name: str, package: Path) -> Path:
    """The file that a dotted name leads to; what follows a module is a name in it."""
    parts = name.split(".")[1:]
    while parts:
        path = package.joinpath(*parts)
        if path.with_suffix(".py").is_file():
            return path.with_suffix(".py")
        if (path / "__init__.py").is_file():
            return path / "__init__.py"
        parts.pop()
    return package / "__init__.py"


def arrows(package: Path) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for path in files_of(package):
        room = room_of(path, package)
        targets = found.setdefault(room, set())
        for name in facts_of(path).imported:
            if name == "cvft" or name.startswith("cvft."):
                targets.add(room_of(file_of(name, package), package))
    return {room: targets - {room} for room, targets in found.items()}


def wrong_arrows(package: Path) -> Iterator[str]:
    for room, targets in arrows(package).items():
        allowed = set(MAY_IMPORT[room].split())
        yield from (f"{room} -> {target}" for target in targets - allowed)


def circles(package: Path) -> Iterator[str]:
    """Circles of modules that are imported when a module is, not inside a function and not for types alone."""
    graph = {}
    for path in files_of(package):
        targets = {file_of(name, package) for name in facts_of(path).when_imported if name.startswith("cvft.")}
        graph[path] = targets - {path, package / "__init__.py"}
    done: set[Path] = set()

    def visit(path: Path, trail: tuple[Path, ...]) -> Iterator[str]:
        if path in trail:
            yield " -> ".join(str(each.relative_to(package)) for each in (*trail[trail.index(path) :], path))
        elif path not in done:
            for target in sorted(graph[path]):
                yield from visit(target, (*trail, path))
            done.add(path)

    for path in graph:
        yield from visit(path, ())


def torch_where_none_may_be(package: Path) -> Iterator[str]:
    for path in files_of(package):
        if room_of(path, package) in WITHOUT_TORCH:
            used = {name.partition(".")[0] for name in facts_of(path).when_run} & TORCH
            yield from (f"{path.relative_to(package)} imports {name}" for name in used)


def words_where_none_may_be(package: Path) -> Iterator[str]:
    """Imports, calls and names that only some files may hold."""
    for path in files_of(package):
        name, facts = path.relative_to(package).as_posix(), facts_of(path)
        libraries = {each.partition(".")[0] for each in facts.imported}
        if "swift" in libraries and name not in SPEAKS_SWIFT and not re.fullmatch(r"families/\w+/runtime\.py", name):
            yield f"{name} speaks ms-swift"
        if "subprocess" in libraries and name not in STARTS_PROCESSES:
            yield f"{name} starts processes"
        clients = {each for each in HTTP_CLIENTS if any(f"{used}.".startswith(f"{each}.") for used in facts.imported)}
        if clients and name not in SPEAKS_HTTP:
            yield f"{name} speaks HTTP by itself: {clients}"
        if facts.prints and not name.startswith(PRINTS):
            yield f"{name} prints"
        if re.search(FAMILY_NAMES, path.read_text()) and not name.startswith(NAMES_A_FAMILY):
            yield f"{name} names a family"
        of_tiny = {each for each in facts.imported if each.split(".")[1:2] == ["tiny"] and each.startswith("cvft.")}
        if of_tiny and not name.startswith("tiny/"):
            yield f"{name} imports {of_tiny}"


CHECKS = (wrong_arrows, circles, torch_where_none_may_be, words_where_none_may_be)


@pytest.mark.parametrize("check", CHECKS)
def test_the_house_is_as_its_picture_says(check):
    assert list(check(PACKAGE)) == []


def test_no_permission_is_unused():
    found = arrows(PACKAGE)
    assert found.keys() == MAY_IMPORT.keys()
    assert {room: sorted(set(MAY_IMPORT[room].split()) - targets) for room, targets in found.items()} == {
        room: [] for room in found
    }


BREACHES = {
    "data/rows.py": ("from cvft.recipe import Recipe\n", wrong_arrows, "data -> recipe"),
    "weights/folder.py": ("from cvft.families.parts import Parts\n", wrong_arrows, "weights -> families"),
    "plan/plan.py": ("from cvft.train.launch import launch\n", wrong_arrows, "plan -> train"),
    "families/cogvlm2_video/layout.py": (
        "def f():\n    from cvft.families.cogvlm2_video.network import loss\n",
        wrong_arrows,
        "families/cogvlm2_video -> families/cogvlm2_video/network",
    ),
    "data/features/key.py": ("from cvft.data.rows import Row\n", wrong_arrows, "data/features -> data"),
    "data/video/sample.py": ("import cvft.data.video.decode\n", circles, "data/video/sample.py"),
    "plan/ranks.py": ("import torch\n", torch_where_none_may_be, "plan/ranks.py imports torch"),
    "families/cogvlm2_video/tensors.py": (
        "def f():\n    import transformers\n",
        torch_where_none_may_be,
        "families/cogvlm2_video/tensors.py imports transformers",
    ),
    "train/sampler.py": (
        "from swift import SftArguments\n",
        words_where_none_may_be,
        "train/sampler.py speaks ms-swift",
    ),
    "clips/build.py": ("import subprocess\n", words_where_none_may_be, "clips/build.py starts processes"),
    "data/fetch/cache.py": ("import httpx\n", words_where_none_may_be, "data/fetch/cache.py speaks HTTP by itself"),
    "predict/open.py": ("print('loading')\n", words_where_none_may_be, "predict/open.py prints"),
    "export/merge.py": ("NAME = 'CogVLM2-Video'\n", words_where_none_may_be, "export/merge.py names a family"),
    "evaluate/metrics/scoring.py": (
        "import cvft.tiny.world\n",
        words_where_none_may_be,
        "evaluate/metrics/scoring.py imports {'cvft.tiny",
    ),
}


@pytest.mark.parametrize("name", BREACHES)
def test_a_planted_breach_is_found(tmp_path, name):
    code, check, expected = BREACHES[name]
    shutil.copytree(PACKAGE, tmp_path / "cvft", ignore=shutil.ignore_patterns("tiny/*.safetensors", "__pycache__"))
    path = tmp_path / "cvft" / name
    path.write_text(f"{path.read_text()}\n{code}")
    found = list(check(tmp_path / "cvft"))
    assert found
    assert any(expected in each for each in found), found


@pytest.mark.parametrize(
    "module", ["cvft", "cvft.cli.main", "cvft.train.run", "cvft.pipeline", "cvft.plan.forecast", "cvft.families.table"]
)
def test_importing_the_parent_side_loads_no_torch(module):
    code = f"import sys, {module}\nprint([name for name in ('torch', 'transformers', 'swift') if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_data_folders_hide_no_library():
    for folder in ("datasets", "recipes"):
        assert not list((PACKAGE.parent / folder).rglob("__init__.py"))


def test_limits_of_tests_only_catch_hangs():
    """Ten times what an idle machine needs, at the least: a busy one must not fail a test."""
    found = [
        f"{path.name}: {match[0]}"
        for path in Path(__file__).parent.glob("*.py")
        for match in re.finditer(r"timeout=(\d+)|(?:monotonic|perf_counter)\(\) - \w+ < (\d+)", path.read_text())
        if int(match[1] or match[2]) < SHORTEST_LIMIT_S
    ]
    assert found == []


SHORTEST_LIMIT_S = 300
