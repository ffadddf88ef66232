"""What the next developer finds beside the code says what the code says: versions, tools, targets, forms, the container."""

import json
import re
import shutil
import subprocess
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from cvft import __version__
from tests.docs_pages import LINK, anchors_of
from tests.test_package import build
from tests.test_readme import FILE, code_of

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z]+):", MAKEFILE, flags=re.MULTILINE))
PAGES = [ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / ".github" / "PULL_REQUEST_TEMPLATE.md"]
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
CONTAINER = ROOT / "docs" / "container"
IMAGE = re.compile(r"python:(\d+\.\d+)")


def test_one_version_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert newest is not None
    assert (str(citation["version"]), newest[1]) == (__version__, __version__)
    assert "version" in PROJECT["dynamic"]  # pyproject.toml reads it from the code
    assert citation["license"] == PROJECT["license"]


def test_the_citation_has_what_its_format_asks_for():
    """Required keys, and the values that readers of the format know. Source: schema-guide of citation-file-format 1.2.0."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert (citation["cff-version"], citation["type"]) == ("1.2.0", "software")
    assert all(author.get("name") or author.get("family-names") for author in citation["authors"])


def test_forms_are_whole_and_the_one_for_faults_asks_for_the_environment():
    forms = {path.name: yaml.safe_load(path.read_text()) for path in FORMS}
    assert set(forms) == {"config.yml", "fault.yml", "wish.yml"}
    for name in ("fault.yml", "wish.yml"):
        form = forms[name]
        assert {"name", "description", "body"} <= set(form)
        ids = [field["id"] for field in form["body"]]
        assert len(set(ids)) == len(ids)
        assert all({"label"} <= set(field["attributes"]) for field in form["body"])
    asked = next(
        field for field in forms["fault.yml"]["body"] if "cvft doctor-env --imports" in field["attributes"]["label"]
    )
    assert asked["validations"]["required"]


def test_hooks_use_the_tools_of_the_environment():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert [repo["repo"] for repo in config["repos"]] == ["local"]  # no tool comes with a version of its own
    hooks = config["repos"][0]["hooks"]
    recipes = {name: MAKEFILE.partition(f"\n{name}:")[2].partition("\n\n")[0] for name in TARGETS}
    made = "".join(recipes[name] for name in ("lint", "type", "docs"))
    for hook in hooks:
        words = hook["entry"].split()
        if words[0] == "make":
            assert words[1] in TARGETS
        else:
            assert f"$(BIN)/{Path(words[0]).name} {words[1]}" in made
        re.compile(hook.get("files", ""))
    assert {hook["id"] for hook in hooks} == {"ruff-check", "ruff-format", "mypy", "docs"}


def test_every_target_is_listed_in_a_group():
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    listed = re.findall(r"^  make ([a-z]+) +\S", shown, flags=re.MULTILINE)
    assert sorted(listed) == sorted(TARGETS)
    assert len(re.findall(r"^\S", shown, flags=re.MULTILINE)) >= 4
    (phony,) = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, flags=re.MULTILINE)
    assert set(phony.split()) == TARGETS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_for_developers_name_what_exists(page):
    assert set(re.findall(r"\bmake ([a-z]+)\b", code_of(page))) <= TARGETS
    assert [name for name in FILE.findall(page.read_text()) if not (ROOT / name).exists()] == []
    for link in LINK.findall(page.read_text()):
        if not link.startswith("https://"):
            name, _, anchor = link.partition("#")
            assert (page.parent / name).exists(), link
            assert not anchor or anchor in anchors_of(page.parent / name), link


def test_containers_have_a_python_that_the_package_takes():
    wanted = SpecifierSet(PROJECT["requires-python"])
    development = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    versions = IMAGE.findall(development["image"]) + IMAGE.findall((CONTAINER / "Dockerfile").read_text())
    assert len(versions) == 2
    assert len(set(versions)) == 1
    assert versions[0] in wanted
    words = development["postCreateCommand"].split()
    assert (words[0], words[1] in TARGETS) == ("make", True)


def test_the_image_has_the_torch_of_the_makefile_and_extras_of_the_package():
    dockerfile = (CONTAINER / "Dockerfile").read_text()
    compose = yaml.safe_load((CONTAINER / "compose.yaml").read_text())
    (stated,) = re.findall(r"^TORCH \?= (\S+)$", MAKEFILE, flags=re.MULTILINE)
    assert f'ARG TORCH="{stated}"' in dockerfile
    assert compose["services"]["cvft"]["build"]["args"]["TORCH"] == f"${{TORCH:-{stated}}}"
    torch = next(each for each in map(Requirement, PROJECT["dependencies"]) if each.name == "torch")
    assert torch.specifier.contains(stated.removeprefix("torch=="))
    named = re.findall(r"\[([a-z,]+)\]", dockerfile)
    assert named
    assert {extra for names in named for extra in names.split(",")} <= set(PROJECT["optional-dependencies"])


def test_what_the_image_copies_is_enough_for_a_wheel(tmp_path):
    """The build context of the image, cut down by its .dockerignore and its COPY lines; docker itself is not needed."""
    ignore = (CONTAINER / "Dockerfile.dockerignore").read_text().splitlines()
    let_in = {line.removeprefix("!") for line in ignore if line.startswith("!")}
    assert ignore[0] == "*"
    lines = re.findall(r"^COPY (.+) \S+$", (CONTAINER / "Dockerfile").read_text(), flags=re.MULTILINE)
    copied = [name for line in lines for name in line.split()]
    context = tmp_path / "context"
    context.mkdir()
    for name in copied:
        assert any(fnmatch(name, each) for each in let_in), name
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, context / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, context / name)
    assert let_in == set(copied)
    (tmp_path / "out").mkdir()
    assert build("wheel", context, tmp_path / "out").stat().st_size > 10_000_000
