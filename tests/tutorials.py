"""Carries out the pages of docs/tutorials as a reader would, and compares or writes what their commands print.

A page has two kinds of fences. One whose first line names a file, such as `yaml when.yaml`, is written. In one of the kind
`console`, each line that begins with `$ ` is a command, and the lines below are its standard output. The commands run one after
the other in a folder that has `docs`, `datasets` and `recipes` of the checkout.

    python -m tests.tutorials [PAGE...]     runs pages, all of them without any, and writes their outputs anew
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cvft.errors import EXIT_INCOMPLETE  # a check that has warnings
from tests.project import HANG_S

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "tutorials"
PAGES = sorted(path for path in FOLDER.glob("*.md") if path.name != "README.md")

FENCE = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROMPT = "$ "
NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e-?\d+)?")

POINTS = 15.0
"""How far two percentages may lie apart, in points: other processors round sums otherwise, and a training drifts with that."""

RELATIVE = 0.25
"""The same for other numbers with decimals."""


@dataclass
class Step:
    """A file to write, or a command with what it prints.

    Args:
        file: The file's name; None for a command.
        text: What it holds; the command.
        output: What the page says that the command prints, line by line.
        span: Where these lines stand in the page.
    """

    text: str
    file: str | None = None
    output: list[str] = field(default_factory=list)
    span: tuple[int, int] = (0, 0)


def read_steps(page: str) -> list[Step]:
    steps = []
    for fence in FENCE.finditer(page):
        kind, name, body = fence.groups()
        if kind != "console":
            steps += [Step(body, file=name)] if name else []
            continue
        position = fence.start(3)
        for line in body.splitlines():
            end = position + len(line) + 1
            if line.startswith(PROMPT):
                steps.append(Step(line.removeprefix(PROMPT), span=(end, end)))
            else:
                steps[-1].output.append(line)
                steps[-1].span = (steps[-1].span[0], end)
            position = end
    return steps


def prepare(folder: Path) -> dict[str, str]:
    """Makes the folder in which a reader would work; returns the environment of its commands."""
    work, programs = folder / "work", folder / "bin"
    work.mkdir(parents=True)
    programs.mkdir()
    for name in ("docs", "datasets", "recipes"):
        (work / name).symlink_to(ROOT / name)
    for name, words in {"cvft": "-m cvft", "python": ""}.items():
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" {words} "$@"\n')
        program.chmod(0o755)
    rest = os.environ.get("PYTHONPATH", "")
    return {
        **os.environ,
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), rest])),
    }


def carry_out(steps: list[Step], folder: Path, *, until: str | None = None) -> Iterator[tuple[Step, list[str]]]:
    """Carries out steps, up to the first command that begins with some words; yields each command with what it printed."""
    shell = prepare(folder)
    work = folder / "work"
    for step in steps:
        if step.file is not None:
            (work / step.file).write_text(step.text)
            continue
        if until is not None and step.text.startswith(until):
            return
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", step.text],
            cwd=work,
            env=shell,
            capture_output=True,
            text=True,
            timeout=HANG_S,
            check=False,
        )
        is_fine = done.returncode == 0 or (step.text.startswith("cvft check") and done.returncode == EXIT_INCOMPLETE)
        assert is_fine, f"{step.text}\n{done.stdout}\n{done.stderr[-4000:]}"
        yield step, done.stdout.replace(f"{work}/", "").rstrip("\n").splitlines()


def differing(stated: list[str], printed: list[str]) -> list[str]:
    """Says which lines are not the same: words and whole numbers to the letter, what a training computes nearly."""
    found = [f"{len(stated)} lines are stated, {len(printed)} came"] if len(stated) != len(printed) else []
    for said, came in zip(stated, printed, strict=False):
        numbers = list(zip(NUMBER.findall(said), NUMBER.findall(came), strict=False))
        alike = NUMBER.sub("N", said).split() == NUMBER.sub("N", came).split()
        if not alike or not all(_near(a, b, is_share="%" in said) for a, b in numbers):
            found.append(f"- {said}\n+ {came}")
    return found


def _near(stated: str, came: str, *, is_share: bool) -> bool:
    if stated == came or "e-" in stated:  # how far sums are rounded: another test holds that
        return True
    if is_share:
        return abs(float(stated) - float(came)) <= POINTS
    return "." in stated and abs(float(stated) - float(came)) <= RELATIVE * float(stated)


def write_outputs(path: Path) -> None:
    page = path.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        ran = list(carry_out(read_steps(page), Path(folder)))
    for step, printed in reversed(ran):
        begin, end = step.span
        page = page[:begin] + "".join(f"{line}\n" for line in printed) + page[end:]
    path.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    for name in sys.argv[1:] or [str(each) for each in PAGES]:
        write_outputs(Path(name))
