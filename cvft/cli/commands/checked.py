"""What commands share that look at data: a recipe or files of rows, checked with a progress bar."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cvft.cli.arguments import add_format, load
from cvft.cli.commands.fetched import add_urls, open_cache
from cvft.errors import CvftError, Problem
from cvft.progress import counting_clips

if TYPE_CHECKING:
    from cvft.data.doctor.check import CheckUp
    from cvft.data.doctor.share import ShareDone
    from cvft.data.shares import Share
    from cvft.plan.job import Job


class Checked(NamedTuple):
    """What was found.

    Args:
        found: The findings.
        job: The job of the recipe; None with files of rows.
    """

    found: CheckUp
    job: Job | None


def add_data(parser: argparse.ArgumentParser) -> None:
    """Takes a recipe with overrides, or files of rows and how they are read."""
    parser.add_argument(
        "recipe", metavar="RECIPE|DATA", type=Path, help="a recipe, the folder of a run, or a file of rows"
    )
    parser.add_argument(
        "overrides", metavar="key.path=value|DATA", nargs="*", help="settings of the recipe, or more files of rows"
    )
    parser.add_argument("--video-root", metavar="DIR", type=Path, help="where clips of DATA are; else beside each file")
    add_format(parser)
    parser.add_argument("--workers", metavar="N", type=int, help="processes that decode; else one per CPU, 8 at most")
    add_urls(parser)


def check_data(
    options: argparse.Namespace,
    *,
    outputs: Sequence[Path | None],
    before: Callable[[Sequence[Path]], None] | None = None,
) -> Checked:
    """Checks what `add_data` took.

    Args:
        options: The arguments.
        outputs: Files that the command will write or replace: refused where they are what is checked, or cannot be written.
        before: Called with the files of rows before they are read.

    Raises:
        CvftError: when arguments or recipe cannot be used, or clips cannot be decoded at all.
    """
    is_recipe = _is_recipe(options)
    from cvft.data.catalog import CLIPS_FOLDER, ClipCatalog
    from cvft.data.doctor.check import DataFile, check_files
    from cvft.data.formats.clips_inside import UNPACKED_FOLDER
    from cvft.data.video.loader import DecodeSettings
    from cvft.data.video.sample import Sampling
    from cvft.plan.check import check_job, open_to_check

    loaded = load(options) if is_recipe else None
    paths = list(dict.fromkeys([options.recipe, *map(Path, options.overrides)]))
    if loaded is not None:
        paths = [file.path for file in loaded.recipe.data.sources.values()]
    for output in outputs:
        _check_output(output, inputs=[options.recipe, *paths])
    if before is not None:
        before(paths)
    with counting_clips() as show:
        if loaded is not None:
            job = open_to_check(loaded)
            return Checked(check_job(job, on_progress=show), job)
        files = [DataFile(path) for path in paths]
        how = DecodeSettings(Sampling())
        with ClipCatalog(Path("runs", CLIPS_FOLDER).absolute(), how) as catalog:
            found = check_files(
                files,
                how=how,
                video_root=options.video_root,
                format=options.format,
                clips=Path("runs", UNPACKED_FOLDER).absolute(),
                catalog=catalog,
                cache=open_cache(options),
                num_workers=options.workers,
                on_progress=show,
            )
        return Checked(found, None)


def prove_data(options: argparse.Namespace, share: Share) -> ShareDone:
    """Decodes a share of the clips of what `add_data` took.

    Args:
        options: The arguments.
        share: The share.

    Raises:
        CvftError: when arguments or recipe cannot be used, or clips cannot be decoded at all.
    """
    is_recipe = _is_recipe(options)
    from cvft.data.catalog import CLIPS_FOLDER, ClipCatalog
    from cvft.data.doctor.check import DataFile
    from cvft.data.doctor.share import prove_share
    from cvft.data.formats.clips_inside import UNPACKED_FOLDER
    from cvft.data.video.loader import DecodeSettings
    from cvft.data.video.sample import Sampling
    from cvft.plan.check import open_to_check, prove_share_of

    with counting_clips() as show:
        if is_recipe:
            return prove_share_of(open_to_check(load(options)), share, on_progress=show)
        how = DecodeSettings(Sampling())
        with ClipCatalog(Path("runs", CLIPS_FOLDER).absolute(), how, share=share) as catalog:
            return prove_share(
                [DataFile(path) for path in dict.fromkeys([options.recipe, *map(Path, options.overrides)])],
                share,
                how=how,
                catalog=catalog,
                video_root=options.video_root,
                format=options.format,
                clips=Path("runs", UNPACKED_FOLDER).absolute(),
                cache=open_cache(options),
                num_workers=options.workers,
                on_progress=show,
            )


def _is_recipe(options: argparse.Namespace) -> bool:
    """Says whether a recipe is given, and not files of rows; refuses what does not fit."""
    is_recipe = options.recipe.is_dir() or options.recipe.suffix.lower() in (".yaml", ".yml")
    _check_arguments(options, is_recipe=is_recipe)
    return is_recipe


def _check_arguments(options: argparse.Namespace, *, is_recipe: bool) -> None:
    problems = [
        Problem(f"--{name}", "it beside a recipe", f"`data.{key}={value}`, which is the recipe's own")
        for name, key, value, is_given in (
            ("video-root", "video_root", "DIR", options.video_root is not None),
            ("format", "format", options.format, options.format != "auto"),
            ("workers", "check_workers", options.workers, options.workers is not None),
            ("cache", "cache", options.cache, options.cache is not None),
            ("allow-host", "allow_hosts", json.dumps(options.allow_host), bool(options.allow_host)),
        )
        if is_recipe and is_given
    ]
    if not problems and options.workers is not None and options.workers < 1:
        problems.append(Problem("--workers", f"`{options.workers}`", "at least 1"))
    if problems:
        raise CvftError("command line", problems)


def _check_output(output: Path | None, *, inputs: Sequence[Path]) -> None:
    """Refuses an output that could not be written, or that would replace what is checked."""
    if output is None:
        return
    from cvft.files import check_output

    if any(path.exists() and output.exists() and output.samefile(path) for path in inputs):
        problem = Problem("--output", f"`{output}`, which is to be checked", "another file")
        raise CvftError("command line", [problem])
    check_output(output, subject="command line", where="--output", may_exist=True)
