"""Checks the data of a recipe: as it trains on them, and with what was found of its clips already.

LoadedRecipe -> job -> `cvft.data.doctor` with the recipe's sampling and the catalog of clips -> lengths by its tokenizer
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable

from cvft.data.catalog import ClipCatalog
from cvft.data.doctor.check import CheckUp, DataFile, check_files
from cvft.data.doctor.findings import Finding
from cvft.data.doctor.share import ShareDone, prove_share
from cvft.data.rows import Row, check_written
from cvft.data.shares import Share
from cvft.errors import DataError, Problem
from cvft.plan.datasets import bring_datasets, note_datasets
from cvft.plan.forecast import decide_machine
from cvft.plan.job import Job, open_job
from cvft.plan.lengths import answer_limit, check_answers_fit, check_rows_fit, check_texts, measure_rows
from cvft.plan.url_cache import unpacked_dir
from cvft.recipe import LoadedRecipe, Recipe
from cvft.recipe.data_section import is_val


def check_recipe(loaded: LoadedRecipe, *, on_progress: Callable[[int, int], None] | None = None) -> CheckUp:
    """Checks rows and clips of a recipe; writes to the catalog and the cache of clips alone, and needs neither weights nor a GPU.

    Args:
        loaded: The recipe.
        on_progress: Called with clips done and clips in all.

    Returns:
        The findings.

    Raises:
        CvftError: when the recipe cannot be used, or clips cannot be decoded on this machine.
    """
    return check_job(open_to_check(loaded), on_progress=on_progress)


def open_to_check(loaded: LoadedRecipe) -> Job:
    """Opens the job of a recipe without weights and without a GPU.

    Raises:
        CvftError: when the recipe cannot be used.
    """
    machine, ranks, _ = decide_machine(loaded.recipe, None)
    return open_job(loaded, needs_weights=False, machine=machine, ranks=ranks)


def check_job(job: Job, *, looks: bool = True, on_progress: Callable[[int, int], None] | None = None) -> CheckUp:
    """Checks rows and clips of a job; see `check_recipe`, and for `looks` see `cvft.data.doctor.check.check_files`."""
    recipe = job.recipe
    bring_datasets(recipe)
    how = job.preprocessing.decode
    with ClipCatalog(job.clips_root, how) as catalog:
        checked = check_files(
            _files_of(job),
            how=how,
            clips=unpacked_dir(recipe),
            catalog=catalog,
            cache=job.url_cache,
            num_workers=recipe.data.check_workers,
            looks=looks,
            on_progress=on_progress,
        )
    return checked.with_more([*_check_lengths(job, checked), *_check_datasets(recipe, checked)])


def _check_datasets(recipe: Recipe, checked: CheckUp) -> list[Finding]:
    """Finds datasets that were given by name and are not whole, or not to be trained on."""
    of_file = {
        key: [row for row in checked.rows if row.source == file.path] for key, file in recipe.data.sources.items()
    }
    notes = note_datasets(recipe, of_file)
    return [
        Finding("dataset_note", Problem("datasets", note, "a dataset as its makers publish and mean it"))
        for note in notes
    ]


def prove_share_of(job: Job, share: Share, *, on_progress: Callable[[int, int], None] | None = None) -> ShareDone:
    """Decodes a share of the clips of a job; see `cvft.data.doctor.share.prove_share`."""
    bring_datasets(job.recipe)
    how = job.preprocessing.decode
    with ClipCatalog(job.clips_root, how, share=share) as catalog:
        return prove_share(
            _files_of(job),
            share,
            how=how,
            clips=unpacked_dir(job.recipe),
            catalog=catalog,
            cache=job.url_cache,
            num_workers=job.recipe.data.check_workers,
            on_progress=on_progress,
        )


def _files_of(job: Job) -> list[DataFile]:
    return [
        DataFile(
            file.path,
            is_held_out=is_val(key),
            format=file.format,
            video_root=file.video_root,
            max_frames=file.max_frames,
            fps=file.fps,
        )
        for key, file in job.recipe.data.sources.items()
    ]


def _check_lengths(job: Job, checked: CheckUp) -> list[Finding]:
    """Finds rows that cannot be laid out, or have more tokens than there is room for."""
    lay_out = job.family.layouts(job.model.folder, job.preprocessing)
    by_location: dict[str, list[Row]] = defaultdict(list)
    for row in checked.rows:
        by_location[row.location].append(row)

    def about(kind: str, problem: Problem) -> Finding:
        return Finding(kind, problem, tuple(by_location.get(problem.where.partition(" `")[0], ())))

    findings = [about("row_refused", problem) for problem in _problems(lambda: check_written(checked.rows))]
    rows: list[Row] = []
    for row in checked.rows:
        problems = _problems(functools.partial(check_texts, [row], lay_out=lay_out))
        findings += [about("row_refused", problem) for problem in problems]
        if not problems and all(clip in checked.clips for clip in row.videos):
            rows.append(row)
    if job.model.folder.is_absent:  # an estimate refuses nothing
        return findings
    shapes = measure_rows(rows, lay_out=lay_out, clips=checked.clips)
    long = _problems(lambda: check_rows_fit(rows, shapes, max_tokens=job.preprocessing.max_tokens))
    held_out_files = {file.path for key, file in job.recipe.data.sources.items() if is_val(key)}
    held_out = [(row, shape) for row, shape in zip(rows, shapes, strict=True) if row.source in held_out_files]
    held_out = held_out[: job.recipe.eval.num_rows]
    long += _problems(
        lambda: check_answers_fit(
            [row for row, _ in held_out],
            [shape.num_prompt_tokens for _, shape in held_out],
            max_new_tokens=job.recipe.eval.max_new_tokens,
            max_tokens=answer_limit(job.family, job.model.folder, job.preprocessing),
        )
    )
    return findings + [about("row_too_long", problem) for problem in long]


def _problems(check: Callable[[], object]) -> list[Problem]:
    try:
        check()
    except DataError as error:
        return list(error.problems)
    return []
