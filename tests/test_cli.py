"""The command line: quick help, exit codes, what goes where, and the hand-over to the engine."""

from __future__ import annotations

import json
import os
import resource
import shlex
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cvft import __version__
from cvft.cli.main import build_parser, main

BASE = "model: {path: tiny}\ndata: {train: rows.jsonl}\n"
COMMANDS = (
    "demo",
    "run",
    "check",
    "preview",
    "convert",
    "plan",
    "train",
    "features",
    "export",
    "eval",
    "judge",
    "infer",
    "chat",
    "serve",
    "handover",
    "push",
    "models",
    "datasets",
    "schema",
    "doctor-env",
)
HEAVY = ("torch", "transformers", "numpy", "pydantic", "yaml", "swift", "matplotlib", "PIL")
REPO = Path(__file__).parent.parent

Calls = list[tuple[str, tuple[Any, ...], dict[str, Any]]]

HOW = {"quantize": None, "base": None, "max_new_tokens": None}
"""What `cvft infer` leaves open when nothing is said."""

JOB = object()
"""What opening a recipe's job returns here."""

RUN = object()
"""What finding a run returns here."""

CHOSEN = object()
"""What choosing one of its checkpoints returns."""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(BASE)
    return path


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Stands in for the modules that do the work, and notes how they are called."""
    noted: Calls = []

    def stand_in(name: str, result: object) -> Callable[..., object]:
        def call(*args: Any, **kwargs: Any) -> object:
            noted.append((name, args, kwargs))
            return result

        return call

    modules: dict[str, dict[str, object]] = {
        "cvft.pipeline": {"run_all": "done"},
        "cvft.plan.job": {"open_job": JOB},
        "cvft.plan.trained": {"open_trained_job": JOB, "contract_of": None},
        "cvft.runs": {"find_trained_run": RUN, "find_run": RUN},
        "cvft.train.adapters": {"choose_checkpoint": CHOSEN, "adopt_checkpoint": None},
        "cvft.export.run": {"export_run": None},
        "cvft.evaluate.run": {"evaluate_run": types.SimpleNamespace(metrics={"größe": 0.5})},
        "cvft.train.run": {
            "is_trained": False,
            "train": types.SimpleNamespace(adapter=Path("runs/mine/adapter")),
        },
        "cvft.predict.infer": {"infer_one": "a réd ball", "infer_file": None, "infer_folder": None},
    }
    for module, functions in modules.items():
        fake = types.ModuleType(module)
        for name, result in functions.items():
            setattr(fake, name, stand_in(name, result))
        monkeypatch.setitem(sys.modules, module, fake)
    return noted


def test_help_is_quick_and_needs_only_the_standard_library() -> None:
    code = (
        "import sys; from cvft.cli.main import build_parser; text = build_parser().format_help(); "
        f"print(sorted(set({HEAVY!r}) & set(sys.modules)))"
    )
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.stdout == "[]\n"
    # seconds of a processor: those of the clock are what other programs leave
    assert after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime < 1.0


def test_loading_a_recipe_needs_no_torch(recipe: Path) -> None:
    code = (
        "import sys; from cvft.recipe import load_recipe; import cvft.report, cvft.evaluate.metrics; "
        f"load_recipe({str(recipe)!r}); "
        "print(sorted({'torch', 'transformers', 'numpy', 'swift', 'matplotlib', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_module_runs_as_a_program() -> None:
    done = subprocess.run([sys.executable, "-m", "cvft", "--version"], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == (f"cvft {__version__}\n", "")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_examples_that_parse(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    _, _, epilog = capsys.readouterr().out.partition("examples:\n")
    lines = [line.strip() for line in epilog.splitlines()]
    assert lines
    for line in lines:
        words = shlex.split(line.partition(" > ")[0])
        assert words[:2] == ["cvft", command]
        build_parser().parse_args(words[1:])
        for word in words:
            assert not word.startswith("recipes/") or (REPO / word).is_file(), word


def test_each_command_calls_its_function(recipe: Path, calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    for command, functions, printed in [
        ("run", ["run_all"], "done\n"),
        ("train", ["is_trained", "open_job", "train"], "runs/mine/adapter\n"),
        ("export", ["find_trained_run", "open_trained_job", "export_run"], ""),
        ("eval", ["find_trained_run", "open_trained_job", "evaluate_run"], '{\n  "größe": 0.5\n}\n'),
    ]:
        assert main([command, str(recipe), "lora.rank=4", "seed=1"]) == 0
        assert [name for name, _, _ in calls] == functions
        # a job is opened from the recipe that was loaded, and the last function gets it
        assert all(args == (JOB,) for name, args, _ in calls[2:])
        for _, (loaded, *_), _ in calls[:2]:
            assert (loaded.recipe.lora.rank, loaded.recipe.seed) == (4, 1)
            assert loaded.overrides == ("lora.rank=4", "seed=1")
        assert calls[1:2] == [] or calls[1][2] == ({"trains": True} if command == "train" else {"base": None})
        assert capsys.readouterr().out == printed
        calls.clear()


@pytest.mark.parametrize(
    "words", [["--model", "base", "seed=1"], ["seed=1", "--model", "base"], ["--model=base", "seed=1"]]
)
def test_overrides_may_stand_behind_an_option(recipe: Path, calls: Calls, words: list[str]) -> None:
    assert main(["eval", str(recipe), *words]) == 0
    (_, (loaded,), _), _, (_, args, kwargs) = calls
    assert (loaded.recipe.seed, args, kwargs) == (
        1,
        (JOB,),
        {"variant": "base", "data": None, "is_blind": False, "num_ranks": 1},
    )


def test_the_adapter_answers_unless_said_otherwise(recipe: Path, calls: Calls) -> None:
    assert main(["eval", str(recipe)]) == 0
    assert calls.pop() == (
        "evaluate_run",
        (JOB,),
        {"variant": "adapter", "data": None, "is_blind": False, "num_ranks": 1},
    )


@pytest.mark.parametrize("words", [["--data", "test.jsonl"], ["data.val=test.jsonl"]])
def test_other_rows_are_evaluated_beside_the_runs_own(recipe: Path, calls: Calls, words: list[str]) -> None:
    assert main(["eval", str(recipe), "--model", "merged", *words]) == 0
    assert calls[-1] == (
        "evaluate_run",
        (JOB,),
        {"variant": "merged", "data": Path("test.jsonl"), "is_blind": False, "num_ranks": 1},
    )
    (_, (loaded,), _), *_ = calls
    assert loaded.recipe.data.val is None  # the run is the one that it was


def test_a_checkpoint_is_chosen_before_and_made_after_the_job_is_opened(recipe: Path, calls: Calls) -> None:
    assert main(["eval", str(recipe), "--checkpoint", "best", "--base", "moved"]) == 0
    names = ["find_run", "choose_checkpoint", "open_trained_job", "contract_of", "adopt_checkpoint", "evaluate_run"]
    assert [name for name, _, _ in calls] == names
    assert calls[1][1:] == ((RUN, "best"), {"by": "eval_loss"})
    assert (calls[2][1][1], calls[2][2]) == (CHOSEN, {"base": Path("moved")})


def test_a_run_folder_stands_for_its_recipe(tmp_path: Path, calls: Calls) -> None:
    folder = tmp_path / "renamed.2"
    folder.mkdir()
    (folder / "recipe.yaml").write_text(f"{BASE}name: first\noutput: {{root: elsewhere}}\n")
    assert main(["export", str(folder), "export.dtype=fp32"]) == 0
    (_, (loaded,), _), *_ = calls
    assert (loaded.recipe.run_dir, loaded.recipe.export.dtype) == (folder, "fp32")


def test_infer_one(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    history = '[["Who?", "A man."]]'
    assert main(["infer", "--model", "m", "--video", "v.mp4", "--query", "Why?", "--history", history]) == 0
    name, args, given = calls.pop()
    cache = given.pop("cache")
    assert (cache.folder, name, args) == (Path("runs/.urls").absolute(), "infer_one", ("m",))
    whole = {"stretch": (None, None)}
    assert given == {"video": "v.mp4", "query": "Why?", "history": [("Who?", "A man.")], "system": None, **whole, **HOW}
    assert capsys.readouterr().out == "a réd ball\n"
    assert main(["infer", "--model", "m", "--query", "Why?", "--quantize", "nf4", "--base", "b"]) == 0
    given = {"video": None, "query": "Why?", "history": [], "system": None, **whole}
    passed = calls.pop()[2]
    assert passed.pop("cache")
    assert passed == {**given, **HOW, "quantize": "nf4", "base": Path("b")}
    assert main(["infer", "--model", "m", "--video", "v.mp4", "--query", "Why?", "--start", "2", "--end", "3.5"]) == 0
    assert calls.pop()[2]["stretch"] == (2, 3.5)


def test_infer_file(calls: Calls) -> None:
    cached = ["--cache", "elsewhere", "--allow-host", "clips.lan"]
    assert main(["infer", "--model", "m", "--data", "rows.jsonl", "--output", "p.jsonl", *cached]) == 0
    given = {
        "data": Path("rows.jsonl"),
        "output": Path("p.jsonl"),
        "shard": None,
        "form": "jsonl",
        "num_ranks": 1,
        **HOW,
    }
    name, args, passed = calls.pop()
    assert passed.pop("cache").folder == Path("elsewhere").absolute()
    assert (name, args, passed) == ("infer_file", ("m",), given)


def test_infer_folder(calls: Calls) -> None:
    words = [
        "--caption",
        "clips",
        "--query",
        "Why?",
        "--output",
        "p.csv",
        "--format",
        "csv",
        "--shard",
        "1/4",
        "--num-gpus",
        "2",
    ]
    assert main(["infer", "--model", "m", *words]) == 0
    given = {
        "folder": Path("clips"),
        "query": "Why?",
        "system": None,
        "output": Path("p.csv"),
        "shard": (1, 4),
        "form": "csv",
        "num_ranks": 2,
        **HOW,
    }
    assert calls.pop() == ("infer_folder", ("m",), given)


def test_schema_is_json_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["title"] == "cvft recipe"
    assert out == (REPO / "cvft/recipe/recipe.schema.json").read_text(encoding="utf-8")
    assert err == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["trian"],
            "command line has 1 problem\n"
            "  command: got `trian`, need one of `demo`, `run`, `check`, `preview`, `convert`, `plan`, `train`, "
            "`features`, `export`, `eval`, `judge`, `report`, `compare`, `infer`, `chat`, `serve`, `handover`, `push`, `models`, "
            "`datasets`, `schema`, `doctor-env`\n"
            "    hint: did you mean `train` or `run`?\n",
        ),
        (
            ["infer", "--model", "m", "--output", "o", "--history", "[1]"],
            "command line has 3 problems\n"
            "  --query: got nothing, need a question, or `--data` with a file of rows\n"
            "  --output: got it without `--data`, need both, or `--query` alone\n"
            '  --history: got `[1]`, need JSON such as `[["question", "answer"]]`\n',
        ),
        (
            ["infer", "--model", "m", "--query", "q", "--num-gpus", "0"],
            "command line has 2 problems\n"
            "  --num-gpus: got `0`, need at least 1\n"
            "  --num-gpus: got it without `--data`, need both, or `--query` alone\n",
        ),
        (
            ["eval", "r.yaml", "--num-gpus", "-1"],
            "command line has 1 problem\n  --num-gpus: got `-1`, need at least 1\n",
        ),
        (
            ["infer", "--model", "m", "--data", "d", "--query", "q"],
            "command line has 2 problems\n"
            "  --query: got it beside `--data`, need one question or a file of rows, not both\n"
            "  --output: got nothing, need the file that the answers to `--data` go to\n",
        ),
        (
            ["infer", "--model", "m", "--query", "q", "--start", "-1", "--end", "nan"],
            "command line has 4 problems\n"
            "  --start: got `-1.0`, need seconds from the first frame of the file, 0 or more\n"
            "  --start: got it without `--video`, need both: it says which part of the clip is meant\n"
            "  --end: got `nan`, need seconds from the first frame of the file, 0 or more\n"
            "  --end: got it without `--video`, need both: it says which part of the clip is meant\n",
        ),
        (
            ["infer", "--model", "m", "--video", "v", "--query", "q", "--start", "2", "--end", "2"],
            "command line has 1 problem\n  --end: got `2.0`, need more than `--start` (2 s)\n",
        ),
        (
            ["infer", "--model", "m", "--query", "q", "--history", "{"],
            'command line has 1 problem\n  --history: got `{`, need JSON such as `[["question", "answer"]]`\n',
        ),
        (
            ["infer", "--model", "m", "--caption", "d", "--video", "v", "--shard", "4/4"],
            "command line has 4 problems\n"
            "  --query: got nothing, need a question, or `--data` with a file of rows\n"
            "  --video: got it beside `--caption`, need one clip or a folder, not both\n"
            "  --output: got nothing, need the file that the answers to `--caption` go to\n"
            "  --shard: got `4/4`, need I/N such as `0/4`, I from 0 to N-1\n",
        ),
        (
            ["infer", "--model", "m", "--data", "d", "--output", "o", "--system", "Be brief."],
            "command line has 1 problem\n  --system: got it beside `--data`, need one question or a file of rows, not both\n",
        ),
        (
            ["chat", "--model", "m", "--max-new-tokens", "0", "--system", " "],
            "command line has 2 problems\n"
            "  --max-new-tokens: got `0`, need at least 1\n"
            "  --system: got no text, need one, or leave it out: the model's own is then taken\n",
        ),
        (
            ["train", "no/such.yaml"],
            "recipe no/such.yaml has 1 problem\n  no/such.yaml: got no such file, need a recipe file\n",
        ),
    ],
)
def test_mistakes(words: list[str], message: str, calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert capsys.readouterr() == ("", message)
    assert calls == []


def test_an_option_of_another_tool_is_refused(recipe: Path, calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(recipe), "--lora_rank", "4"]) == 2
    assert capsys.readouterr() == (
        "",
        "command line has 1 problem\n"
        "  argument: got `--lora_rank`, need one of those that `cvft train --help` shows\n"
        "    hint: settings are written `key.path=value`, such as `lora.rank=16`\n",
    )
    assert main(["schema", "please"]) == 2
    assert capsys.readouterr().err == (
        "command line has 1 problem\n  argument: got `please`, need one of those that `cvft schema --help` shows\n"
    )
    assert calls == []


def test_no_command_shows_the_help_and_is_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("usage: cvft")


def test_an_interrupt(recipe: Path, calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(loaded: object) -> None:
        raise KeyboardInterrupt

    sys.modules["cvft.train.run"].train = interrupt  # type: ignore[attr-defined]
    assert main(["train", str(recipe)]) == 130
    assert capsys.readouterr() == ("", "interrupted\n")


def test_an_error_of_ours_keeps_its_traceback(recipe: Path, calls: Calls) -> None:
    def fail(loaded: object) -> None:
        raise ZeroDivisionError("ours")

    sys.modules["cvft.train.run"].train = fail  # type: ignore[attr-defined]
    with pytest.raises(ZeroDivisionError, match="ours"):
        main(["train", str(recipe)])


def test_a_reader_that_goes_away_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "cvft", "schema"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")
