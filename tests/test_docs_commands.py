"""Every command and every block of Python in README and docs is run, in the folder of a reader who has a finished run.

`cvft` runs in this process, which loads torch once for all of them. What costs more than seconds, or needs what is not here,
stands in `ELSEWHERE` with the file that shows it: it is parsed all the same, its recipe is loaded, and its files exist.
"""

import io
import re
import subprocess
import sys
import tomllib
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cvft.cli.main import build_parser, main
from cvft.errors import EXIT_INCOMPLETE
from cvft.recipe import load_recipe
from tests.docs_folder import make_docs_folder
from tests.docs_pages import PAGES, ROOT, Command, blocks_of, commands_of, name_of
from tests.project import HANG_S
from tests.server import serving

ALL = [command for page in PAGES for command in commands_of(page)]
COMMANDS = [command for index, command in enumerate(ALL) if command.words not in [each.words for each in ALL[:index]]]
"""Each once, from the first page that has it."""
OF_CVFT = [command for command in COMMANDS if command.program == "cvft"]
OTHERS = [command for command in COMMANDS if command.program != "cvft"]

ELSEWHERE = {
    r"demo": "tests/test_demo.py",
    r"train .*name=": "tests/test_train_run.py",
    r"run .*(zero2|2nodes)": "tests/test_train_ranks.py",
    r"plan .*zero2": "tests/test_plan_parallel.py",
    r".*--num-gpus": "tests/test_predict_ranks.py",
    r"serve ": "tests/test_serve.py",
    r"judge (?!.*--cost)": "tests/test_evaluate_judge.py",
    r"push (?!.*--card)": "tests/test_weights_hub.py",
    r"chat --model (?!runs)": "tests/test_weights_hub.py",
    r"handover ": "tests/test_handover.py",
    r".*recipes/(?!tiny)": "tests/test_recipes.py",
}
"""How commands begin that are not run here -> the file that shows what they do."""

OUTPUTS = ("output", "page", "card", "target")
"""Arguments that name a file to write."""

USUAL_ADDRESS = "http://127.0.0.1:8000"

TYPED = "What is shown?\n/quit\n"
"""What is typed into a chat."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_docs_folder(tmp_path_factory)


@pytest.fixture(autouse=True)
def _in_the_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def words_of(command: Command) -> list[str]:
    """What is behind `cvft`; a share's number stands for the variable of a job array, and `...` for nothing.

    The folder's recipe is for a CPU, which plans for no GPU.
    """
    words = [word.replace("$I", "0") for word in command.words[1:] if word != "..."]
    return [*words, "parallel.device=auto"] if "--gpu" in words else words


def parse(words: list[str]) -> Namespace:
    options, rest = build_parser().parse_known_args(words)
    assert not [word for word in rest if word.startswith("-") or not hasattr(options, "overrides")], rest
    if rest:
        options.overrides += rest
    return options


def named_files(options: Namespace) -> list[Path]:
    """Files that a command reads."""
    values = [value for name, value in vars(options).items() if name not in OUTPUTS]
    flat = [each for value in values for each in (value if isinstance(value, list) else [value])]
    return [each for each in flat if isinstance(each, Path)]


def name_of_command(command: Command) -> str:
    return f"{command.page.name}: {' '.join(command.words[1:7])}"


def elsewhere(words: list[str]) -> str | None:
    line = " ".join(words)
    return next((shown for begin, shown in ELSEWHERE.items() if re.match(begin, line)), None)


def test_commands_were_found():
    assert len(OF_CVFT) >= 60
    for shown in ELSEWHERE.values():
        assert (ROOT / shown).is_file(), shown
    unused = [begin for begin in ELSEWHERE if not any(re.match(begin, " ".join(words_of(each))) for each in OF_CVFT)]
    assert not unused


@pytest.mark.parametrize("command", OF_CVFT, ids=name_of_command)
def test_a_command_does_what_the_page_says(command, folder, monkeypatch, capfd):
    words = words_of(command)
    options = parse(words)
    missing = [str(path) for path in named_files(options) if not path.exists()]
    assert not missing
    if elsewhere(words) is not None:
        if getattr(options, "recipe", None) is not None and words[0] in ("run", "train", "plan"):
            recipe = options.recipe if options.recipe != Path("my.yaml") else Path("readme.yaml")
            load_recipe(recipe, overrides=options.overrides)
        return
    written = [path for name in OUTPUTS if (path := getattr(options, name, None)) is not None]
    for path in written:
        path.unlink(missing_ok=True)
    with io.StringIO(TYPED) as typed:
        monkeypatch.setattr(sys, "stdin", typed)
        code = main(words)
    said = capfd.readouterr()
    # what looks for faults and found some has done its work
    assert code in ((0, EXIT_INCOMPLETE) if words[0] in ("check", "doctor-env") else (0,)), said.err[-2000:]
    assert all(path.is_file() for path in written)


@pytest.mark.parametrize("command", OTHERS, ids=name_of_command)
def test_other_programs_are_given_what_exists(command, folder):
    words = command.words
    match command.program:
        case "make":
            subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, check=True, capture_output=True, timeout=HANG_S)
        case "pip":
            assert words[1] in ("install", "wheel")
            assert all(word in (ROOT / "Makefile").read_text() for word in words if word.startswith("torch=="))
            extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
            assert set(re.findall(r"\[([\w,]+)\]", command.line)) <= {name for name in extras}
        case "python" | "sh" | "sbatch":
            if words[1] == "-m":
                help_of = [sys.executable, "-m", words[2], "--help"]
                said = subprocess.run(help_of, check=True, capture_output=True, text=True, timeout=HANG_S).stdout
                assert all(word in said for word in words if word.startswith("--"))
            elif not words[1].startswith("handover/"):  # what `cvft handover` writes, says tests/test_handover.py
                assert (folder / words[1]).is_file()
        case "docker":
            assert (folder / words[words.index("-f") + 1]).is_file()
        case "curl":
            assert command.page.name == "serving.md", "asked below, of a server"
        case "ffmpeg" | "export":
            named = [word for word in words if word.endswith(".mp4") and word != words[-1]]
            assert all((folder / name).is_file() for name in named)
        case program:
            pytest.fail(f"no test knows what to make of `{program}`")


@contextmanager
def serving_for(page: Path) -> Iterator[str]:
    """Starts the server that a page tells to start, where its code asks one; yields its address."""
    if not any(USUAL_ADDRESS in code for code in blocks_of(page, "python")):
        yield USUAL_ADDRESS
        return
    words = next(each.words for each in commands_of(page) if each.words[:2] == ["cvft", "serve"])
    with serving(*words[2:]) as running:
        yield running.url


@pytest.mark.parametrize("page", [page for page in PAGES if blocks_of(page, "python")], ids=name_of)
def test_python_of_a_page_runs_as_it_stands(page, folder, capfd):
    with serving_for(page) as address:
        names: dict[str, object] = {}
        for number, code in enumerate(blocks_of(page, "python"), start=1):
            exec(compile(code.replace(USUAL_ADDRESS, address), f"{page.name}, block {number}", "exec"), names)
        for opened in ("tuned", "client"):
            if opened in names:
                names[opened].close()
        assert capfd.readouterr().out.strip(), "a page that shows Python prints something"
        for command in OTHERS:
            if command.page == page and command.program == "curl":
                said = subprocess.run(
                    ["bash", "-c", command.line.replace(USUAL_ADDRESS, address)],
                    capture_output=True, text=True, check=True, timeout=HANG_S,
                ).stdout  # fmt: skip
                assert '"finish_reason"' in said, said
