"""README and docs say what the results say, and name only what exists: files, links, make targets, commands, settings.

Commands and Python are run in `test_docs_commands.py`.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cvft.cli.main import COMMANDS
from cvft.data.rows import read_rows
from cvft.families.table import FAMILIES
from cvft.recipe import load_recipe
from cvft.recipe.names import iter_fields, section_names
from tests.docs_pages import (
    DOCS,
    FENCE,
    INDENTED,
    PAGES,
    README,
    README_ZH,
    ROOT,
    anchors_of,
    blocks_of,
    commands_of,
    headings_of,
    links_of,
    name_of,
)

MAX_README_LINES = 150

SPAN = re.compile(r"`[^`\n]+`")
FILE = re.compile(r"(?<![\w./-])(?:recipes|benchmarks|tests|cvft|datasets|docs|\.ci)/[\w./-]*\w")
SETTING = re.compile(rf"(?<![\w./-])(?:{'|'.join(section_names())})\.[a-z_]+(?![\w.]|/)")
FILE_ENDINGS = (".json", ".jsonl", ".md", ".py", ".yaml")

every_page = pytest.mark.parametrize("page", PAGES, ids=name_of)


def code_of(page: Path) -> str:
    """Everything on a page that is set as code: fenced, indented, or in backticks."""
    text = page.read_text(encoding="utf-8")
    rest = FENCE.sub("", text)
    return "\n".join([code for _, code in FENCE.findall(text)] + INDENTED.findall(rest) + SPAN.findall(rest))


@pytest.mark.parametrize("script", ["readme.py", "rooms.py"])
def test_what_is_generated_is_up_to_date(script):
    command = [sys.executable, str(ROOT / "benchmarks" / script), "--check"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("page", [README, README_ZH], ids=name_of)
def test_the_readme_is_short(page):
    assert len(page.read_text(encoding="utf-8").splitlines()) <= MAX_README_LINES


def test_the_readme_maps_every_page():
    assert len(DOCS) >= 10
    assert {name_of(page) for page in DOCS} | {"docs/tutorials/README.md"} <= set(links_of(README))


def test_the_readme_names_every_family_with_its_sizes():
    rows = [line for line in README.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    for family in FAMILIES:
        names = [row for row in rows if re.search(rf"(?<![\w-]){re.escape(family.title)}(?![\w.-])", row.split("|")[1])]
        assert len(names) == 1, f"{family.title} stands in {len(names)} lines of the table of models"
        sizes = {size for each in family.checkpoints for size in re.findall(r"(?<=-)[\d.]+B(?:-A\d+B)?", each.name)}
        assert [size for size in sorted(sizes) if not re.search(rf"(?<![\w.-]){size}(?![\w-])", names[0])] == []


def test_the_chinese_readme_says_the_same():
    english, chinese = README, README_ZH
    assert [level for level, _ in headings_of(chinese)] == [level for level, _ in headings_of(english)]
    assert [each.words for each in commands_of(chinese)] == [each.words for each in commands_of(english)]
    assert blocks_of(chinese, "json") == blocks_of(english, "json")
    recipes = [[yaml.safe_load(block) for block in blocks_of(page, "yaml")] for page in (english, chinese)]
    assert recipes[0] == recipes[1]
    assert len(recipes[0]) == 1
    other = {english: name_of(chinese), chinese: name_of(english)}
    links = {page: sorted(link for link in links_of(page) if link != other[page]) for page in other}
    assert links[chinese] == links[english]
    for page, name in other.items():
        assert f"]({name})" in page.read_text(encoding="utf-8").splitlines()[0]
    tables = {page: re.findall(r"^\|", page.read_text(encoding="utf-8"), flags=re.MULTILINE) for page in other}
    assert len(tables[chinese]) == len(tables[english])


@every_page
def test_links_lead_somewhere(page):
    broken = []
    for link in links_of(page):
        if link.startswith(("http://", "https://")):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists() or (anchor and anchor not in anchors_of(target)):
            broken.append(link)
    assert not broken


@every_page
def test_blocks_of_yaml_are_parts_of_a_recipe(page, tmp_path):
    for number, block in enumerate(blocks_of(page, "yaml")):
        said = yaml.safe_load(block)
        sections = {"model": {"path": "tiny"}, "data": {"train": "train.jsonl"}}
        recipe = {
            key: {**sections.get(key, {}), **said[key]} if isinstance(said[key], dict) else said[key] for key in said
        }
        below = recipe.pop("extends", None)
        path = tmp_path / f"{number}.yaml"
        path.write_text(
            yaml.safe_dump({**sections, **recipe} if below is None else recipe | {"extends": f"{ROOT}/recipes/{below}"})
        )
        load_recipe(path)


@every_page
def test_blocks_of_json_are_json(page):
    for block in blocks_of(page, "json"):
        try:
            json.loads(block)
        except json.JSONDecodeError:
            assert [json.loads(line) for line in block.splitlines()]


def test_rows_that_the_pages_show_are_rows(tmp_path):
    """Their clips need only be there: rows are read without decoding."""
    shown = [
        line for page in PAGES for block in blocks_of(page, "json") for line in block.splitlines() if '"query"' in line
    ]
    assert len(set(shown)) >= 8
    for line in shown:
        row = json.loads(line)
        for clip in [*row.get("videos", []), *row.get("images", [])]:
            for name in (
                clip if isinstance(clip, list) else [clip] if "." in clip else [f"{clip}/{i}.jpg" for i in range(4)]
            ):
                (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / name).write_bytes(b"not looked at")
    (tmp_path / "rows.jsonl").write_text("\n".join(shown), encoding="utf-8")
    assert len(read_rows(tmp_path / "rows.jsonl")) == len(shown)


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
    reference = {command.words[1] for command in commands_of(ROOT / "docs" / "recipe.md") if command.program == "cvft"}
    assert reference == set(COMMANDS)


def test_every_setting_that_the_pages_name_is_one():
    named = {name for page in PAGES for name in SETTING.findall(code_of(page)) if not name.endswith(FILE_ENDINGS)}
    assert len(named) >= 30
    assert named <= {path for path, _ in iter_fields()}
