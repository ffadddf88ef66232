"""Before any training: every row and every clip is proved usable, and lengths are counted.

`Job` -> rows that will train, rows held out, facts per clip, tokens per row

Imports no torch: lengths come from the tokenizer alone, clips are decoded in processes of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from cvft.data.catalog import ClipCatalog
from cvft.data.check import ClipCheck, Quarantined, check_clips
from cvft.data.records import FileFacts
from cvft.data.rows import Row, check_written, read_rows
from cvft.data.split import split_by_clip
from cvft.data.video.process import ClipInfo
from cvft.errors import DataError, Problem, RecipeError, quote
from cvft.evaluate.metrics.rows import metrics_of, spread_evenly
from cvft.plan.batching import RowFacts
from cvft.plan.job import Job
from cvft.plan.lengths import answer_limit, check_answers_fit, check_rows_fit, check_texts, measure_rows, note_lengths
from cvft.plan.notes import NUM_EXAMPLES, note_rows
from cvft.plan.probes import check_probes, note_probes, read_probes
from cvft.plan.url_cache import url_cache_dir
from cvft.recipe import Recipe
from cvft.recipe.rules import LOSS_METRICS
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
    clips: Mapping[Path, ClipInfo]
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

        prepared = prepare_rows(job, check=check)
        check_probes(job, prepared.probes, catalog=catalog, on_progress=on_progress)
        return prepared


def prepare_rows(job: Job, *, check: Callable[[Sequence[Row]], ClipCheck]) -> PreparedRows:
    """Reads rows and measures them; needs config.json and tokenizer of the model, but no weights.

    Args:
        job: The job.
        check: Finds out about the clips of rows.

    Returns:
        Rows, clips and lengths.

    Raises:
        CvftError: with all problems of the rows, or of the clips, or of the lengths.
    """
    recipe, how = job.recipe, job.preprocessing
    sources = find_sources(recipe)
    rows, held_out = _read_both(recipe)
    check_written([*rows, *held_out])
    lay_out = job.family.layouts(job.model.folder, how)
    check_texts([*rows, *held_out], lay_out=lay_out)
    probes = read_probes(job)
    checked = check([*rows, *held_out])
    set_aside = {id(item.row) for item in checked.quarantined}
    rows = [row for row in rows if id(row) not in set_aside]
    held_out = [row for row in held_out if id(row) not in set_aside]
    _refuse_nothing_left(recipe, rows, held_out, checked.quarantined)
    if not recipe.data.val and recipe.data.val_fraction:
        rows, held_out = split_by_clip(rows, val_fraction=recipe.data.val_fraction, seed=recipe.seed)
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
        row_facts=RowFacts(train, val),
        notes=[
            *job.family.capabilities.unpromised,
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
    files = {"data.train": recipe.data.train, "data.val": recipe.data.val}
    return {key: FileFacts.of(path) for key, path in files.items() if path is not None and path.is_file()}


def _read_both(recipe: Recipe) -> tuple[list[Row], list[Row]]:
    """Reads train and val rows, and tells the problems of both files together."""
    read: list[list[Row]] = []
    errors: list[DataError] = []
    for path in (recipe.data.train, recipe.data.val):
        try:
            read.append(
                []
                if path is None
                else read_rows(
                    path,
                    video_root=recipe.data.video_root,
                    format=recipe.data.format,
                    url_cache=url_cache_dir(recipe),
                )
            )
        except DataError as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise DataError("the rows", [problem for error in errors for problem in error.problems])
    rows, held_out = read
    return rows, held_out


def _refuse_nothing_left(
    recipe: Recipe, rows: Sequence[Row], held_out: Sequence[Row], quarantined: Sequence[Quarantined]
) -> None:
    """Refuses to train on no row, or to evaluate none where a file of val rows was given."""
    left = {"data.train": (recipe.data.train, rows), "data.val": (recipe.data.val, held_out)}
    problems = []
    for setting, (path, good) in left.items():
        reasons = [item.reason for item in quarantined if item.row.source == path]
        if path is not None and not good:
            got = f"{len(reasons)} rows in {path}, of which not one has a good clip"
            hint = f"the first of them: {reasons[0]}" if reasons else ""
            problems.append(Problem(setting, got, "rows that can be used", hint))
    if problems:
        raise DataError("the rows that are left", problems)
