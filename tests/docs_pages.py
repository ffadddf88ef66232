"""What stands in README and docs as code: commands, blocks of Python, YAML and JSON, links and headings."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
README_ZH = ROOT / "README.zh-CN.md"
DOCS = sorted((ROOT / "docs").glob("*.md"))
"""Without the tutorials, whose commands run one after the other: see `tests/tutorials.py`."""
PAGES = [README, README_ZH, *DOCS]

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?:^ {4}.*\n?)+", re.MULTILINE)
HEADING = re.compile(r"^(#+) (.+)$", re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
NO_COMMAND = re.compile(r'\{"|\d+\.mp4 |\w+: [{[]|- ')
"""How lines of an indented block begin that show data."""
ASSIGNMENT = re.compile(r"[A-Z_]+=\S*")


@dataclass(frozen=True)
class Command:
    """One command of a page.

    Args:
        page: Where it stands.
        line: Its words as they stand there, without the comment.
    """

    page: Path
    line: str

    @property
    def words(self) -> list[str]:
        """Its words as a shell reads them, without variables that are set before it."""
        words = shlex.split(self.line, comments=True)
        while words and ASSIGNMENT.fullmatch(words[0]):
            words.pop(0)
        return words

    @property
    def program(self) -> str:
        """What it starts."""
        return self.words[0].removeprefix(".venv/bin/")


def name_of(page: Path) -> str:
    """The page's path from the root."""
    return page.relative_to(ROOT).as_posix()


def blocks_of(page: Path, language: str) -> list[str]:
    """The fenced blocks of a language, in their order."""
    return [code for tag, code in FENCE.findall(page.read_text(encoding="utf-8")) if tag == language]


def commands_of(page: Path) -> list[Command]:
    """The commands of a page: the lines of its indented blocks, but for those that show data."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    return [command for block in INDENTED.findall(text) for command in _commands_in(block, page)]


def _commands_in(block: str, page: Path) -> Iterator[Command]:
    lines = iter(line.removeprefix("    ") for line in block.splitlines())
    for line in lines:
        if "<<EOF" in line:  # what follows belongs to the command
            yield Command(page, "\n".join([line, *lines]))
            return
        while line.endswith("\\"):
            line = line[:-1] + next(lines).lstrip()
        if not line.lstrip().startswith("#") and not NO_COMMAND.match(line) and shlex.split(line, comments=True):
            yield Command(page, line)


def headings_of(page: Path) -> list[tuple[int, str]]:
    """Level and text of each heading."""
    found = HEADING.findall(FENCE.sub("", page.read_text(encoding="utf-8")))
    return [(len(marks), text) for marks, text in found]


def anchors_of(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page, and those that stand in it as `<a id="...">`."""
    text = page.read_text(encoding="utf-8")
    of_headings = {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for _, text in headings_of(page)}
    return of_headings | set(re.findall(r'<a id="([\w-]+)"></a>', text))


def links_of(page: Path) -> list[str]:
    """Where its links lead, in their order."""
    return LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8")))
