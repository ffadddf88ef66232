"""Before any training: every row and every clip is proved usable, and lengths are counted.

`Job` -> rows that will train, rows held out, facts per clip, tokens per row

Imports no torch: lengths come from the tokenizer alone, clips are decoded in processes of their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from cvft.data.catalog import ClipCatalog
from cvft.data.check import ClipCheck, Quarantined, check_clips, look_at_clips
from cvft.data.doctor.similar import group_alike
from cvft.data.groups import FileShare
from cvft.data.records import FileFacts
from cvft.data.rows import Row, check_written, give_budget, read_rows
from cvft.data.split import split_by_clip
from cvft.data.video.looks import ClipLooks
from cvft.data.video.process import ClipInfo
from cvft.data.video.spec import ClipRef, content_of, whole_of
from cvft.errors import DataError, Problem, RecipeError, quote
from cvft.evaluate.metrics.rows import metrics_of, spread_evenly
from cvft.plan.batching import RowFacts
from cvft.plan.datasets import bring_datasets, note_datasets
from cvft.plan.job import Job
from cvft.plan.lengths import (
    answer_limit,
    check_answers_fit,
    check_rows_fit,
    check_texts,
    count_pixels,
    measure_rows,
    note_lengths,
)
from cvft.plan.notes import NUM_EXAMPLES, note_rows
from cvft.plan.probes import check_probes, note_probes, read_probes
from cvft.plan.url_cache import unpacked_dir, url_cache_dir
from cvft.recipe import Recipe
from cvft.recipe.data_section import RowFile, is_val
from cvft.recipe.result_rules import LOSS_METRICS
from cvft.recipe.schema import SelectBy


@dataclass(frozen=True)
class PreparedRows:
    """What is known of rows and clips before training.

    Args:
        train_rows: Rows to train on.
        val_rows: Rows held out.
        quarantined: Rows set aside because of their clip.
        clips: Facts per clip.
        row_facts: Lengths and clips of the train and val rows.
        notes: Sentences worth reading before training: columns that no setting uses, cut clips, shared clips.
        sources: What tells the files that the rows came from, by their setting.
        probes: Rows of each probe set: neither trained on nor held out.
    """

    train_rows: Sequence[Row]
    val_rows: Sequence[Row]
    quarantined: Sequence[Quarantined]
    clips: Mapping[ClipRef, ClipInfo]
    row_facts: RowFacts
    notes: Sequence[str]
    sources: Mapping[str, FileFacts] = field(default_factory=dict)
    probes: Mapping[Path, Sequence[Row]] = field(default_factory=dict)


def prepare(job: Job, *, on_progress: Callable[[int, int], None] | None = None) -> PreparedRows:
    """Proves rows and clips usable; clips that the catalog knows are not decoded again, those of URLs are fetched, and nothing
    else is written.

    Args:
        job: The job.
        on_progress: Called with clips done and clips in all.

    Returns:
        Everything that plan and worker need.

    Raises:
        CvftError: with all problems of the rows, or of the clips, or of the lengths.
    """
    decode = job.preprocessing.decode
    with ClipCatalog(job.clips_root, decode) as catalog:

        def check(rows: Sequence[Row]) -> ClipCheck:
            return check_clips(
                rows,
                sampling=decode.sampling,
                decoder=decode.decoder,
                on_bad_clip=job.recipe.data.on_bad_clip,
                timeout_s=decode.timeout_s,
                memory_limit_gib=decode.memory_gib,
                num_workers=job.recipe.data.check_workers,
                catalog=catalog,
                cache=job.url_cache,
                on_progress=on_progress,
            )

        def look(contents: Mapping[ClipRef, str]) -> Mapping[ClipRef, ClipLooks]:
            return look_at_clips(contents, decode=decode, num_workers=job.recipe.data.check_workers, catalog=catalog)

        prepared = prepare_rows(job, check=check, look=look)
        check_probes(job, prepared.probes, catalog=catalog, on_progress=on_progress)
        return prepared


def prepare_rows(
    job: Job,
    *,
    check: Callable[[Sequence[Row]], ClipCheck],
    look: Callable[[Mapping[ClipRef, str]], Mapping[ClipRef, ClipLooks]],
) -> PreparedRows:
    """Reads rows and measures them; needs config.json and tokenizer of the model, but no weights.

    Args:
        job: The job.
        check: Finds out about the clips of rows.
        look: Finds out what clips look like, given with what tells their content from others.

    Returns:
        Rows, clips and lengths.

    Raises:
        CvftError: with all problems of the rows, or of the clips, or of the lengths.
    """
    recipe, how = job.recipe, job.preprocessing
    bring_datasets(recipe)
    sources = find_sources(recipe)
    read = read_sources(recipe.data.sources, recipe=recipe)
    of_datasets = note_datasets(recipe, read)
    held_out = [row for key in list(read) if is_val(key) for row in read.pop(key)]
    rows = [row for of_file in read.values() for row in of_file]
    check_written([*rows, *held_out])
    lay_out = job.family.layouts(job.model.folder, how)
    check_texts([*rows, *held_out], lay_out=lay_out)
    probes = read_probes(job)
    checked = check([*rows, *held_out])
    set_aside = {id(item.row) for item in checked.quarantined}
    rows = [row for row in rows if id(row) not in set_aside]
    held_out = [row for row in held_out if id(row) not in set_aside]
    _refuse_nothing_left(recipe, [*rows, *held_out], checked.quarantined)
    if not recipe.data.val and recipe.data.val_fraction:
        rows, held_out = split_by_clip(
            rows,
            val_fraction=recipe.data.val_fraction,
            seed=recipe.seed,
            max_val_rows=recipe.data.val_rows,
            contents={clip: info.sha256 for clip, info in checked.facts.items()},
            groups=_find_alike(checked.facts, look=look) if recipe.data.split_by == "looks" else None,
        )
    shapes = measure_rows([*rows, *held_out], lay_out=lay_out, clips=checked.facts)
    train, val = shapes[: len(rows)], shapes[len(rows) :]
    _check_choice(recipe, held_out)
    max_new_tokens = recipe.eval.max_new_tokens
    notes: list[str] = []
    answered = {*range(len(held_out[: recipe.eval.num_rows])), *spread_evenly(len(held_out), recipe.train.eval_answers)}
    try:
        check_rows_fit([*rows, *held_out], shapes, max_tokens=how.max_tokens)
        check_answers_fit(
            [held_out[number] for number in sorted(answered)],
            [val[number].num_prompt_tokens for number in sorted(answered)],
            max_new_tokens=max_new_tokens,
            max_tokens=answer_limit(job.family, job.model.folder, how),
        )
    except DataError as error:
        if not job.model.folder.is_absent:
            raise
        # an estimate refuses nothing
        notes = [f"probably refused: {problem.where}: {problem.got}, need {problem.need}" for problem in error.problems]
        notes = notes[:NUM_EXAMPLES] + [f"and {len(notes) - NUM_EXAMPLES} more rows"] * (len(notes) > NUM_EXAMPLES)
    return PreparedRows(
        train_rows=rows,
        val_rows=held_out,
        quarantined=checked.quarantined,
        clips=checked.facts,
        row_facts=RowFacts(train, val, mix_files(recipe, rows), count_pixels(job.kept_frames, checked.facts)),
        notes=[
            *job.family.capabilities.unpromised,
            *of_datasets,
            *note_rows(rows, held_out, checked.facts, sampling=how.decode.sampling),
            *note_lengths(
                train,
                val,
                max_new_tokens=max_new_tokens,
                context_tokens=job.family.context_tokens(job.model.folder.config),
            ),
            *note_probes(probes, rows),
            *notes,
        ],
        sources=sources,
        probes=probes,
    )


def _find_alike(
    clips: Mapping[ClipRef, ClipInfo], *, look: Callable[[Mapping[ClipRef, str]], Mapping[ClipRef, ClipLooks]]
) -> dict[str, str]:
    """Groups files that look alike, by what tells them from others: `ClipInfo.sha256`."""
    files = {whole_of(clip): info.sha256 for clip, info in clips.items()}
    looks = look({clip: content_of(clip, sha256) for clip, sha256 in files.items()})
    return group_alike({files[clip]: of_clip for clip, of_clip in looks.items()})


def _check_choice(recipe: Recipe, held_out: Sequence[Row]) -> None:
    """Refuses to choose checkpoints by a metric that the answers of these val rows do not have."""
    asked = recipe.train.select_by
    answered = [held_out[number] for number in spread_evenly(len(held_out), recipe.train.eval_answers)]
    if asked in LOSS_METRICS or not answered:
        return
    known = [f"eval_{name}" for name in metrics_of(answered)]
    if asked in known:
        return
    choices = [name for name in (*LOSS_METRICS, *known) if name in get_args(SelectBy)]
    got = f"{quote(asked)}, which the {len(answered)} rows that are answered have not"
    need = f"one of {', '.join(map(quote, choices))}"
    problem = Problem("train.select_by", got, need, "a metric belongs to a kind of answers: see docs/evaluation.md")
    raise RecipeError("the val rows", [problem])


def find_sources(recipe: Recipe) -> dict[str, FileFacts]:
    """Looks at the files that a recipe's rows come from; one that cannot be read is for its reader to report."""
    return {key: FileFacts.of(file.path) for key, file in recipe.data.sources.items() if file.path.is_file()}


def read_sources(sources: Mapping[str, RowFile], *, recipe: Recipe) -> dict[str, list[Row]]:
    """Reads files of rows, and tells the problems of all together.

    Args:
        sources: Files by their key paths, as `Data.sources` gives them.
        recipe: Says where clips lie that are fetched, or that lie inside a file.

    Returns:
        The rows of each, by its key path.

    Raises:
        DataError: with every problem of every file.
    """
    read: dict[str, list[Row]] = {}
    errors: list[DataError] = []
    for key, file in sources.items():
        try:
            rows = read_rows(
                file.path,
                video_root=file.video_root,
                format=file.format or "auto",
                clips=unpacked_dir(recipe),
                url_cache=url_cache_dir(recipe),
            )
            read[key] = give_budget(rows, max_frames=file.max_frames, fps=file.fps)
        except DataError as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise DataError("the rows", [problem for error in errors for problem in error.problems])
    return read


def _refuse_nothing_left(recipe: Recipe, rows: Sequence[Row], quarantined: Sequence[Quarantined]) -> None:
    """Refuses files of which no row is left: to train on none, or to evaluate none."""
    problems = []
    left = Counter(row.source for row in rows)
    for key, file in recipe.data.sources.items():
        reasons = [item.reason for item in quarantined if item.row.source == file.path]
        if not left[file.path]:
            got = f"{len(reasons)} rows in {file.path}, of which not one has a good clip"
            hint = f"the first of them: {reasons[0]}" if reasons else ""
            problems.append(Problem(key, got, "rows that can be used", hint))
    if problems:
        raise DataError("the rows that are left", problems)


def mix_files(recipe: Recipe, rows: Sequence[Row]) -> list[FileShare]:
    """Says how often the rows of each train file come in an epoch; nothing where there is one file.

    Args:
        recipe: The recipe.
        rows: The rows to train on, file after file.

    Raises:
        DataError: when a file has no row to train on, or so few that none comes in an epoch.
    """
    if not isinstance(recipe.data.train, tuple):
        return []
    counts = Counter(row.source for row in rows)
    files = {key: file for key, file in recipe.data.sources.items() if not is_val(key)}
    mix = [FileShare(counts[file.path], file.weight, str(file.path)) for file in files.values()]
    problems = []
    for key, share in zip(files, mix, strict=True):
        if not share.num_rows:
            need, hint = "rows to train on", "name a `data.val`, or remove the file"
            problems.append(Problem(key, f"{share.name}, whose rows are all held out", need, hint))
        elif not share.num_per_epoch:
            got, need = f"{share.num_rows} rows x {share.weight:g}", "at least half a row in an epoch"
            problems.append(Problem(f"{key}.weight", got, need, "raise it"))
    if problems:
        raise DataError("the files of rows", problems)
    return mix
