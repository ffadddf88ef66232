"""Probe sets: rows on what a training is not about, which its model is asked before and after: what did it unlearn?

`eval.probes` -> rows per file, proved usable before anything trains
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cvft.data.catalog import ClipCatalog
from cvft.data.check import check_clips
from cvft.data.rows import Row, check_written, read_rows
from cvft.errors import DataError, Problem
from cvft.plan.job import Job
from cvft.plan.lengths import check_prompts, check_texts
from cvft.plan.url_cache import unpacked_dir, url_cache_dir


def read_probes(job: Job) -> dict[Path, list[Row]]:
    """Reads the rows of every probe set that are going to be asked.

    Args:
        job: The job.

    Returns:
        File -> its rows.

    Raises:
        DataError: with all problems of all files.
    """
    data = job.recipe.data
    probes: dict[Path, list[Row]] = {}
    problems: list[Problem] = []
    for path in job.recipe.eval.probes:
        try:
            rows = read_rows(
                path,
                video_root=data.video_root,
                format="auto",
                clips=unpacked_dir(job.recipe),
                url_cache=url_cache_dir(job.recipe),
            )
            probes[path] = rows[: job.recipe.eval.num_rows]
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError("the probe rows (`eval.probes`)", problems)
    every = [row for rows in probes.values() for row in rows]
    check_written(every)
    check_texts(every, lay_out=job.family.layouts(job.model.folder, job.preprocessing))
    return probes


def check_probes(
    job: Job,
    probes: Mapping[Path, Sequence[Row]],
    *,
    catalog: ClipCatalog,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Proves clips and prompts of probe rows usable.

    Args:
        job: The job.
        probes: What `read_probes` returned.
        catalog: What is known of clips.
        on_progress: Called with clips done and clips in all.

    Raises:
        DataError: with every bad clip, whatever `data.on_bad_clip` says: a probe set is asked whole. Or with every row that
            leaves no room for its answer.
    """
    rows = [row for each in probes.values() for row in each]
    if not rows:
        return
    decode = job.preprocessing.decode
    check_clips(
        rows,
        sampling=decode.sampling,
        decoder=decode.decoder,
        timeout_s=decode.timeout_s,
        memory_limit_gib=decode.memory_gib,
        num_workers=job.recipe.data.check_workers,
        catalog=catalog,
        cache=job.url_cache,
        on_progress=on_progress,
    )
    check_prompts(
        rows,
        family=job.family,
        folder=job.model.folder,
        how=job.preprocessing,
        max_new_tokens=job.recipe.eval.max_new_tokens,
    )


def note_probes(probes: Mapping[Path, Sequence[Row]], trained: Sequence[Row]) -> list[str]:
    """Says which probe sets ask what is trained on: their numbers say nothing about the rest."""
    known = {_question(row) for row in trained}
    counts = {path: sum(_question(row) in known for row in rows) for path, rows in probes.items()}
    return [
        f"{path.name}: {count} of {len(probes[path])} probe rows are trained on too: they show nothing of what is unlearnt"
        for path, count in counts.items()
        if count
    ]


def _question(row: Row) -> tuple[object, ...]:
    return row.videos, row.system, row.query, row.history, row.response
