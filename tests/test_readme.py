"""README and docs say what the results say, and name only what exists: files, links, make targets, commands, settings."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from cvft.recipe.names import iter_fields

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [README, *DOCS]
MAX_README_LINES = 150

FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"^ {4}.*$", re.MULTILINE)
SPAN = re.compile(r"`[^`\n]+`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FILE = re.compile(r"(?<![\w./-])(?:recipes|benchmarks|tests|cvft|datasets|docs|\.ci)/[\w./-]*\w")
SECTIONS = "model|data|video|lora|optim|train|parallel|export|eval|output"
SETTING = re.compile(rf"(?<![\w./-])(?:{SECTIONS})\.[a-z_]+(?![\w.]|/)")
FILE_ENDINGS = (".json", ".jsonl", ".md", ".py", ".yaml")

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def code_of(page: Path) -> str:
    """Everything on a page that is set as code: fenced, indented, or in backticks."""
    text = page.read_text(encoding="utf-8")
    rest = FENCE.sub("", text)
    return "\n".join(FENCE.findall(text) + INDENTED.findall(rest) + SPAN.findall(rest))


def anchors_of(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text(encoding="utf-8")), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_tables_come_from_the_results():
    command = [sys.executable, str(ROOT / "benchmarks" / "readme.py"), "--check"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_the_readme_is_short():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= MAX_README_LINES


def test_the_readme_maps_every_page():
    assert len(DOCS) >= 10
    linked = set(LINK.findall(README.read_text(encoding="utf-8")))
    assert {f"docs/{page.name}" for page in DOCS} <= linked


@every_page
def test_links_lead_somewhere(page):
    broken = []
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if link.startswith(("http://", "https://")):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists() or (anchor and anchor not in anchors_of(target)):
            broken.append(link)
    assert not broken


def test_files_that_the_pages_name_exist():
    named = {name for page in PAGES for name in FILE.findall(page.read_text(encoding="utf-8"))}
    assert len(named) >= 20
    assert not sorted(name for name in named if not any((base / name).exists() for base in (ROOT, ROOT / "docs")))


def test_every_recipe_that_ships_is_in_the_table():
    text = (ROOT / "docs" / "recipe.md").read_text(encoding="utf-8")
    shipped = [f"recipes/{path.name}" for path in sorted((ROOT / "recipes").glob("*.yaml"))]
    assert len(shipped) >= 10
    assert not [name for name in shipped if f"| `{name}` |" not in text]


def test_every_make_target_that_the_pages_name_exists():
    targets = {name for page in PAGES for name in re.findall(r"\bmake ([a-z]+)\b", code_of(page))}
    known = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert {"demo", "test"} <= targets
    assert targets <= known


def test_every_command_that_the_pages_name_is_one():
    named = {name for page in PAGES for name in re.findall(r"(?<![\w.'-])cvft +([a-z]+(?:-[a-z]+)*)\b", code_of(page))}
    assert {"plan", "run", "infer"} <= named
    helps = {name: [sys.executable, "-m", "cvft", name, "--help"] for name in sorted(named)}
    codes = {name: subprocess.run(line, capture_output=True, check=False).returncode for name, line in helps.items()}
    assert not [name for name, code in codes.items() if code != 0]


def test_every_setting_that_the_pages_name_is_one():
    named = {name for page in PAGES for name in SETTING.findall(code_of(page)) if not name.endswith(FILE_ENDINGS)}
    assert len(named) >= 30
    assert named <= {path for path, _ in iter_fields()}
