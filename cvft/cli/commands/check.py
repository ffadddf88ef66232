"""`cvft check`: what is wrong, odd or worth knowing about rows and clips."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from cvft.cli.arguments import add_format, load
from cvft.errors import EXIT_INCOMPLETE, EXIT_USER_ERROR, CvftError, FoundError, Problem

SUMMARY = "say what is wrong, odd or worth knowing about rows and clips, before they are trained on"
EXAMPLES = (
    "cvft check recipes/tiny_cpu.yaml",
    "cvft check train.jsonl val.jsonl --video-root clips",
    "cvft check recipes/tiny_cpu.yaml --output check.json",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Says what can be given."""
    parser.add_argument(
        "recipe", metavar="RECIPE|DATA", type=Path, help="a recipe, the folder of a run, or a file of rows"
    )
    parser.add_argument(
        "overrides", metavar="key.path=value|DATA", nargs="*", help="settings of the recipe, or more files of rows"
    )
    parser.add_argument("--video-root", metavar="DIR", type=Path, help="where clips of DATA are; else beside each file")
    add_format(parser)
    parser.add_argument("--workers", metavar="N", type=int, help="processes that decode; else one per CPU, 8 at most")
    parser.add_argument("--json", action="store_true", help="print every finding as JSON")
    parser.add_argument("--output", metavar="FILE", type=Path, help="write every finding to this file, as JSON")


def run(options: argparse.Namespace) -> object:
    """Runs the command and returns what it prints."""
    is_recipe = options.recipe.is_dir() or options.recipe.suffix.lower() in (".yaml", ".yml")
    problems = [
        Problem(
            f"--{name}", "it beside a recipe", f"`data.{name.replace('-', '_')}={value}`, which is the recipe's own"
        )
        for name, value, is_given in (
            ("video-root", "DIR", options.video_root is not None),
            ("format", options.format, options.format != "auto"),
        )
        if is_recipe and is_given
    ]
    if options.workers is not None and options.workers < 1:
        problems.append(Problem("--workers", f"`{options.workers}`", "at least 1"))
    elif options.workers is not None and is_recipe:
        need = f"`data.check_workers={options.workers}`, which is the recipe's own"
        problems.append(Problem("--workers", "it beside a recipe", need))
    if problems:
        raise CvftError("command line", problems)
    from tqdm import tqdm

    from cvft.data.catalog import CLIPS_FOLDER, ClipCatalog
    from cvft.data.doctor.check import DataFile, check_files, describe
    from cvft.data.video.loader import DecodeSettings
    from cvft.data.video.sample import Sampling
    from cvft.files import write_whole
    from cvft.plan.check import check_recipe

    loaded = load(options) if is_recipe else None
    paths = [options.recipe, *map(Path, options.overrides)]
    _check_output(
        options.output, inputs=[options.recipe, loaded.recipe.data.train, loaded.recipe.data.val] if loaded else paths
    )
    with tqdm(desc="clips", unit="clip", file=sys.stderr, dynamic_ncols=True, leave=False) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        if loaded is not None:
            checked = check_recipe(loaded, on_progress=show)
        else:
            files = [DataFile(path) for path in dict.fromkeys(paths)]
            how = DecodeSettings(Sampling())
            with ClipCatalog(Path("runs", CLIPS_FOLDER).absolute(), how) as catalog:
                checked = check_files(
                    files,
                    how=how,
                    video_root=options.video_root,
                    format=options.format,
                    catalog=catalog,
                    num_workers=options.workers,
                    on_progress=show,
                )
    text = json.dumps(checked.to_dict(), indent=2)
    if options.output is not None:
        write_whole(options.output, text + "\n")
    print(text if options.json else describe(checked))
    if checked.count("error") or checked.count("warning"):
        code = EXIT_USER_ERROR if checked.count("error") else EXIT_INCOMPLETE
        raise FoundError(f"found {checked.totals}", exit_code=code)
    return None


def _check_output(output: Path | None, *, inputs: Sequence[Path | None]) -> None:
    """Refuses an output that could not be written, or that would replace what is checked."""
    if output is None:
        return
    from cvft.files import check_output

    if any(path is not None and path.exists() and output.exists() and output.samefile(path) for path in inputs):
        problem = Problem("--output", f"`{output}`, which is to be checked", "another file")
        raise CvftError("command line", [problem])
    check_output(output, subject="command line", where="--output", may_exist=True)
