"""The command line: one subcommand per step, results on stdout, everything else on stderr.

Nothing but the standard library is imported until a command runs, so help appears at once.
Exit codes: 0 done, 1 an error of ours (with its traceback), 2 a mistake in the input, 75 a training that was asked to stop
(Ctrl-C, SIGTERM, SIGHUP or its stop file) and has saved a checkpoint, 130 interrupted with nothing saved.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cvft import __version__
from cvft.errors import EXIT_STOPPED, EXIT_USER_ERROR, CvftError, Problem, StoppedError, did_you_mean, quote

if TYPE_CHECKING:
    from cvft.recipe import LoadedRecipe

EXIT_INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 + SIGINT, as shells have it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: The arguments; without them, those of the process.

    Returns:
        The exit code.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    # The result goes to stdout, so nothing else may.
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    logging.getLogger("bitsandbytes").setLevel(
        logging.ERROR
    )  # peft imports it wherever it is installed, and it chatters
    parser = build_parser()
    try:
        _check_command(args)
        options, rest = parser.parse_known_args(args)
        # argparse ends a list of positionals at the first option; overrides may stand behind one as well.
        if rest and hasattr(options, "overrides") and all(not word.startswith("-") for word in rest):
            options.overrides += rest
        elif rest:
            raise CvftError("command line", [_unknown_argument(rest[0], command=args[0])])
        if options.handler is None:
            parser.print_help(sys.stderr)
            return EXIT_USER_ERROR
        _print_result(options.handler(options))
        sys.stdout.flush()
    except CvftError as error:
        print(error, file=sys.stderr)
        return EXIT_USER_ERROR
    except StoppedError as stopped:
        print(stopped, file=sys.stderr)
        return EXIT_STOPPED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone (`cvft schema | head`); the interpreter would complain on its last flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Builds the parser; every subcommand's help ends with examples to copy."""
    parser = argparse.ArgumentParser(
        prog="cvft",
        description="Fine-tune a video language model, from a recipe to a verified and evaluated checkpoint.",
        epilog=_examples("cvft run recipes/tiny_cpu.yaml", "cvft train --help"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"cvft {__version__}")
    parser.set_defaults(handler=None)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for name, (summary, handler, add_arguments, examples) in _COMMANDS.items():
        command = commands.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            epilog=_examples(*examples),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        add_arguments(command)
        command.set_defaults(handler=handler)
    return parser


def _examples(*lines: str) -> str:
    return "\n".join(["examples:", *(f"  {line}" for line in lines)])


def _add_recipe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", type=Path, help="a recipe file, or the folder of a run")
    parser.add_argument("overrides", metavar="key.path=value", nargs="*", help="settings that replace the recipe's")


def _add_train(parser: argparse.ArgumentParser) -> None:
    _add_recipe(parser)
    parser.add_argument(
        "--dry-run", action="store_true", help="print the commands of every machine, and check and start nothing"
    )


def _add_plan(parser: argparse.ArgumentParser) -> None:
    _add_recipe(parser)
    parser.add_argument("--gpu", metavar="NAME", help="a GPU to plan for, such as A100-40GB; else this machine's")
    parser.add_argument("--clips", metavar="N", type=int, help="most clips to decode for the numbers (300)")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")


def _add_eval(parser: argparse.ArgumentParser) -> None:
    _add_recipe(parser)
    parser.add_argument(
        "--model", choices=("base", "adapter", "merged"), default="adapter", help="which model answers (%(default)s)"
    )


def _add_infer(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", metavar="FOLDER", type=Path, required=True, help="an adapter or a merged model")
    parser.add_argument("--video", metavar="FILE", type=Path, help="the clip to ask about")
    parser.add_argument("--query", metavar="TEXT", help="the question")
    parser.add_argument("--history", metavar="JSON", help='earlier turns: [["question", "answer"], ...]')
    parser.add_argument(
        "--quantize", choices=("none", "nf4", "int8"), help="hold the decoder blocks in 4 or 8 bits; else as trained"
    )
    parser.add_argument("--data", metavar="FILE", type=Path, help="rows to answer instead of one question")
    parser.add_argument("--output", metavar="FILE", type=Path, help="where the answers to the rows go")


def _add_push(parser: argparse.ArgumentParser) -> None:
    _add_recipe(parser)
    parser.add_argument("--to", metavar="OWNER/NAME", required=True, help="the repository on Hugging Face")
    parser.add_argument(
        "--model", choices=("adapter", "merged"), default="merged", help="which model to publish (%(default)s)"
    )
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--card", metavar="FILE", type=Path, help="only write the model card, and upload nothing")


def _add_nothing(parser: argparse.ArgumentParser) -> None:
    del parser


def _run(options: argparse.Namespace) -> object:
    loaded = _load(options)
    from cvft.pipeline import run_all

    return run_all(loaded)


def _train(options: argparse.Namespace) -> object:
    loaded = _load(options)
    if options.dry_run:
        from cvft.engine.dry_run import describe_commands

        return describe_commands(loaded.recipe, typed=["cvft", "train", str(options.recipe), *options.overrides])
    from cvft.train.run import train

    folder = train(loaded)
    return folder.adapter if folder is not None else "this machine's ranks are done: the first machine has the adapter"


def _plan(options: argparse.Namespace) -> object:
    loaded = _load(options)
    from tqdm import tqdm

    from cvft.plan.describe import describe_forecast, forecast_json
    from cvft.plan.forecast import MAX_CLIPS_READ, forecast

    with tqdm(desc="clips", unit="clip", file=sys.stderr, dynamic_ncols=True, leave=False) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        result = forecast(
            loaded.recipe, gpu_name=options.gpu, max_clips=options.clips or MAX_CLIPS_READ, on_progress=show
        )
    print(forecast_json(result) if options.json else describe_forecast(result))
    if result.refused:
        raise CvftError(f"recipe {loaded.recipe.name} on this machine", result.refused)
    return None


def _features(options: argparse.Namespace) -> object:
    loaded = _load(options)
    from cvft.clips.provide import build_ahead

    return build_ahead(loaded)


def _export(options: argparse.Namespace) -> object:
    loaded = _load(options)
    from cvft.pipeline import export_run

    return export_run(loaded)


def _eval(options: argparse.Namespace) -> object:
    loaded = _load(options)
    from cvft.pipeline import evaluate_run

    return evaluate_run(loaded, which=options.model)


def _infer(options: argparse.Namespace) -> object:
    history = _check_infer(options)
    from cvft.predict.infer import infer_file, infer_one

    if options.data is not None:
        return infer_file(options.model, data=options.data, output=options.output, quantize=options.quantize)
    return infer_one(
        options.model, video=options.video, query=options.query, history=history, quantize=options.quantize
    )


def _push(options: argparse.Namespace) -> object:
    loaded = _load(options)
    from cvft.export.publish import push_run

    return push_run(
        loaded, model_id=options.to, which=options.model, is_private=options.private, card_file=options.card
    )


def _models(options: argparse.Namespace) -> object:
    del options
    from cvft.families.cogvlm2_video.checkpoints import describe_checkpoints

    return describe_checkpoints()


def _schema(options: argparse.Namespace) -> object:
    del options
    from cvft.recipe import schema_json

    return schema_json().rstrip("\n")


_COMMANDS: Mapping[
    str,
    tuple[str, Callable[[argparse.Namespace], object], Callable[[argparse.ArgumentParser], None], tuple[str, ...]],
] = {
    "run": (
        "train, merge, verify, evaluate and report, resuming where it stopped",
        _run,
        _add_recipe,
        (
            "cvft run recipes/tiny_cpu.yaml",
            "cvft run recipes/cogvlm2_video_lora_1gpu.yaml data.train=my/train.jsonl name=first_try",
        ),
    ),
    "plan": (
        "tell what a training would do, take and refuse; needs no weights and no GPU",
        _plan,
        _add_plan,
        (
            "cvft plan recipes/tiny_cpu.yaml",
            "cvft plan recipes/cogvlm2_video_lora_zero2_4gpu.yaml --gpu A100-40GB",
            "cvft plan recipes/tiny_cpu.yaml --json > plan.json",
        ),
    ),
    "train": (
        "train the adapter only",
        _train,
        _add_train,
        (
            "cvft train recipes/tiny_cpu.yaml lora.targets=all-linear",
            "cvft train recipes/cogvlm2_video_lora_zero2_2nodes.yaml --dry-run",
            "cvft train recipes/tiny_cpu.yaml train.max_steps=20 name=short",
        ),
    ),
    "features": (
        "encode every clip once, ahead of training",
        _features,
        _add_recipe,
        ("cvft features recipes/tiny_cpu.yaml",),
    ),
    "export": (
        "merge a run's adapter into its base and verify the result",
        _export,
        _add_recipe,
        ("cvft export recipes/tiny_cpu.yaml", "cvft export runs/tiny_cpu"),
    ),
    "eval": (
        "answer the val rows and print the metrics as JSON",
        _eval,
        _add_eval,
        (
            "cvft eval recipes/tiny_cpu.yaml --model base",
            "cvft eval runs/tiny_cpu --model merged",
            "cvft eval recipes/tiny_cpu.yaml eval.num_rows=50 --model adapter",
        ),
    ),
    "infer": (
        "answer one question about a clip, or a file of rows",
        _infer,
        _add_infer,
        (
            'cvft infer --model runs/tiny_cpu/merged --video clip.mp4 --query "What happens?"',
            "cvft infer --model runs/tiny_cpu/adapter --data rows.jsonl --output predictions.jsonl",
        ),
    ),
    "push": (
        "publish a run's adapter or verified merged model, with a card that says what it is",
        _push,
        _add_push,
        (
            "cvft push runs/tiny_cpu --to me/my-model --private",
            "cvft push runs/tiny_cpu --to me/my-adapter --model adapter --card card.md",
        ),
    ),
    "models": (
        "list the checkpoints that cvft knows, and how to get them",
        _models,
        _add_nothing,
        ("cvft models",),
    ),
    "schema": (
        "print the JSON schema of a recipe, for editors",
        _schema,
        _add_nothing,
        ("cvft schema > recipe.schema.json",),
    ),
}


def _check_command(args: Sequence[str]) -> None:
    if args and not args[0].startswith("-") and args[0] not in _COMMANDS:
        known = ", ".join(quote(name) for name in _COMMANDS)
        problem = Problem("command", quote(args[0]), f"one of {known}", did_you_mean(args[0], _COMMANDS))
        raise CvftError("command line", [problem])


def _unknown_argument(word: str, *, command: str) -> Problem:
    hint = "settings are written `key.path=value`, such as `lora.rank=16`" if word.startswith("-") else ""
    return Problem("argument", quote(word), f"one of those that `cvft {command} --help` shows", hint)


def _load(options: argparse.Namespace) -> LoadedRecipe:
    from cvft.recipe import load_recipe

    path: Path = options.recipe
    overrides: list[str] = options.overrides
    snapshot = path / "recipe.yaml"
    if path.is_dir() and snapshot.is_file():
        # The folder may have been moved or renamed since; it is this one that is meant.
        place = path.resolve()
        overrides = [f"output.root={json.dumps(str(place.parent))}", f"name={json.dumps(place.name)}", *overrides]
        path = snapshot
    return load_recipe(path, overrides=overrides)


def _check_infer(options: argparse.Namespace) -> list[tuple[str, str]]:
    problems = []
    if options.data is None:
        if options.query is None:
            problems.append(Problem("--query", "nothing", "a question, or `--data` with a file of rows"))
        if options.output is not None:
            problems.append(Problem("--output", "it without `--data`", "both, or `--query` alone"))
    else:
        problems += [
            Problem(f"--{name}", "it beside `--data`", "one question or a file of rows, not both")
            for name in ("video", "query", "history")
            if getattr(options, name) is not None
        ]
        if options.output is None:
            problems.append(Problem("--output", "nothing", "the file that the answers to `--data` go to"))
    history, problem = _parse_history(options.history)
    if problem is not None:
        problems.append(problem)
    if problems:
        raise CvftError("command line", problems)
    return history


def _parse_history(text: str | None) -> tuple[list[tuple[str, str]], Problem | None]:
    try:
        turns: Any = [] if text is None else json.loads(text)
    except ValueError:
        turns = None
    good = isinstance(turns, list) and all(
        isinstance(turn, list) and len(turn) == 2 and all(isinstance(said, str) for said in turn) for turn in turns
    )
    if good:
        return [(question, answer) for question, answer in turns], None
    need = 'JSON such as `[["question", "answer"]]`'
    return [], Problem("--history", quote(text), need)


def _print_result(result: object) -> None:
    if isinstance(result, Mapping):
        print(json.dumps(result, indent=2, ensure_ascii=False))
    elif result is not None:
        print(result)
