"""Answers outside a run: one question, a file of rows, or a folder of clips, with a model and nothing else given.

Everything that decides how clips and text reach the model comes from the contract beside its weights, or from the name of a model
that was published. Whatever is wrong with question, clip, model folder or output is found before torch is loaded.

rows -> OUTPUT.partial.jsonl, batch by batch -> OUTPUT, and OUTPUT.bad.jsonl for rows that could not be answered
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cvft.data.check import Quarantined, explain, fetch_clips, write_quarantine
from cvft.data.clip_columns import write_clips
from cvft.data.clip_folder import rows_of_folder
from cvft.data.fetch.cache import ClipCache
from cvft.data.media_columns import is_picture
from cvft.data.records import fingerprint_rows
from cvft.data.rows import Row, make_rows, read_rows
from cvft.data.shares import Share, take_share
from cvft.data.video.process import ClipInfo
from cvft.data.video.spec import ClipRef, name_of
from cvft.errors import ClipError, DataError, IncompleteError, Problem, RunError
from cvft.files import check_output, write_whole
from cvft.plan.lengths import check_prompts
from cvft.plan.machine import read_gpus
from cvft.plan.ranks import check_num_ranks
from cvft.predict.answers import Answering, answer_rows, locate_problems, open_answers, partial_file
from cvft.predict.outputs import Form, check_form, count_moments, write_answers
from cvft.predict.ranks import AnsweringRanks
from cvft.predict.trained import FoundModel, find_model

if TYPE_CHECKING:
    from cvft.predict.predictor import Predictor

LOG = logging.getLogger(__name__)

BATCH_ROWS = 4
"""Rows answered at a time where the caller does not say."""

QUESTION = Path("the question")
"""Where the row of a single question comes from, for messages."""

Stretch = tuple[float | None, float | None]
"""Seconds of a clip's file from which on and up to which it is meant; None for its start, and for its end."""

WHOLE: Stretch = (None, None)

NUM_EXAMPLES = 3
"""Most clips that a note names."""


def make_question(
    video: str | ClipRef | None,
    query: str,
    history: Iterable[tuple[str, str]] = (),
    *,
    system: str | None = None,
    stretch: Stretch = WHOLE,
    seconds: Sequence[float] | None = None,
    cache: ClipCache | None = None,
) -> Row:
    """Makes the row of one question, with the checks of a file of rows.

    Args:
        video: The clip, or a picture, relative to the current folder, or its URL, or None to ask without one. With `seconds`, a
            folder of pictures.
        query: The question.
        history: Earlier (question, answer) turns.
        system: System text; None takes the model's.
        stretch: Which part of the clip is meant.
        seconds: When each picture of the folder was taken, in the order of the numbers in their names.
        cache: Where clips of URLs are, once `bring_clip` has fetched them; without it, URLs are refused.

    Raises:
        DataError: when the clip does not exist, or a stretch is none, or seconds do not fit the pictures.
    """
    columns: dict[str, Any] = {"query": query, "history": [list(turn) for turn in history], "system": system}
    if video is not None:
        columns |= (
            {"images" if is_picture(video) else "videos": [video]} if isinstance(video, str) else write_clips([video])
        )
    columns |= {name: second for name, second in zip(("start", "end"), stretch, strict=True) if second is not None}
    columns |= {} if seconds is None else {"seconds": list(seconds)}
    try:
        (row,) = make_rows(
            [(1, columns)],
            source=QUESTION,
            video_root=Path.cwd(),
            require_response=False,
            url_cache=None if cache is None else cache.folder,
        )
    except DataError as error:
        raise about_question(error) from error
    return row


def bring_clip(row: Row, cache: ClipCache | None) -> None:
    """Fetches the clip of a row, where it is named by a URL and not there yet.

    Raises:
        ClipError: when it cannot be fetched.
        RunError: when the cache cannot be written.
    """
    for error in () if cache is None else fetch_clips([row], cache).values():
        raise error


def about_question(error: DataError) -> DataError:
    """Returns what is wrong with the one row of `make_question` without the place that it has among rows."""
    place = f"{QUESTION}: item 1"
    problems = [
        replace(each, where=each.where.removeprefix(place).lstrip(": ") or str(QUESTION)) for each in error.problems
    ]
    return DataError(str(QUESTION), problems)


def infer_one(
    model: str | Path,
    *,
    video: str | ClipRef | None,
    query: str,
    history: Sequence[tuple[str, str]] = (),
    system: str | None = None,
    stretch: Stretch = WHOLE,
    max_new_tokens: int | None = None,
    quantize: str | None = None,
    base: Path | None = None,
    cache: ClipCache | None = None,
) -> str:
    """Answers one question.

    Args:
        model: What `find_model` takes.
        video: The clip, or None to ask without one.
        query: The question.
        history: Earlier (question, answer) turns.
        system: System text; None takes the model's.
        stretch: Which part of the clip is meant.
        max_new_tokens: Longest answer in tokens; None takes what the prompt leaves, up to `MAX_NEW_TOKENS`.
        quantize: `none`, `nf4` or `int8`; without it an adapter is asked on its base as it was trained, a merged model as it is.
        base: Where the base of an adapter lies by now.
        cache: Fetches clips of URLs; without it, they are refused.

    Returns:
        The answer.

    Raises:
        CvftError: when the model or the clip cannot be used.
    """
    row = make_question(video, query, history, system=system, stretch=stretch, cache=cache)
    found = find_model(model, base=base, quantize=quantize)
    _check([row], found, max_new_tokens)
    bring_clip(row, cache)
    for clip in row.videos:
        look_at_clip(clip, found)
    with closing(load_found(found)) as predictor:
        (answer,) = predictor.answer([row], batch_rows=1, max_new_tokens=max_new_tokens)
    if answer.is_cut:
        LOG.info("note      the answer was cut: its tokens were used up; --max-new-tokens says how many it may have")
    return answer.text


def infer_file(
    model: str | Path,
    *,
    data: Path,
    output: Path,
    shard: Share | None = None,
    form: Form = "jsonl",
    max_new_tokens: int | None = None,
    quantize: str | None = None,
    base: Path | None = None,
    cache: ClipCache | None = None,
    num_ranks: int = 1,
) -> str:
    """Answers every row of a file; what was answered before a stop is not answered again.

    Args:
        model: What `find_model` takes.
        data: A file of rows in any format; responses are kept and not looked at.
        output: The file to write: each row with its `prediction`, and `is_cut` where tokens ran out, in the order of the rows. It
            appears when all rows were tried; until then the answers lie in `OUTPUT.partial.jsonl`.
        shard: Number of a share, from 0, and of all shares: of the clips, every so many-th with all its rows. None for all.
        form: How `output` is written.
        max_new_tokens: Longest answer in tokens; None takes what the prompt leaves, up to `MAX_NEW_TOKENS`.
        quantize: `none`, `nf4` or `int8`; without it an adapter is asked on its base as it was trained, a merged model as it is.
        base: Where the base of an adapter lies by now.
        cache: Fetches clips of URLs; without it, rows that name them are refused.
        num_ranks: Processes that answer, each on a GPU of its own; the answers do not depend on it.

    Returns:
        How many rows were answered, for the terminal.

    Raises:
        CvftError: when model, rows or output cannot be used, or no row can be answered; then nothing is written. When there are
            fewer GPUs, or a rank fails.
        IncompleteError: when some rows could not be answered: they are listed in `OUTPUT.bad.jsonl`.
    """
    _check_output(output)
    url_cache = None if cache is None else cache.folder
    rows = take_share(read_rows(data, require_response=False, format="auto", url_cache=url_cache), shard)
    found = find_model(model, base=base, quantize=quantize)
    answering = _answering(found, num_ranks=num_ranks)
    return _infer_rows(
        rows,
        found,
        answering=answering,
        subject=f"data {data}",
        output=output,
        form=form,
        max_new_tokens=max_new_tokens,
        cache=cache,
    )


def infer_folder(
    model: str | Path,
    *,
    folder: Path,
    query: str,
    system: str | None = None,
    output: Path,
    shard: Share | None = None,
    form: Form = "jsonl",
    max_new_tokens: int | None = None,
    quantize: str | None = None,
    base: Path | None = None,
    num_ranks: int = 1,
) -> str:
    """Asks one question about every clip of a folder, and of all folders in it; otherwise as `infer_file`.

    Args:
        model: What `find_model` takes.
        folder: The folder; see `cvft.data.clip_folder.find_clips` for which of its files are clips.
        query: The question.
        system: System text; None takes the model's.
        output: As of `infer_file`. The `id` of a row is the clip's place in the folder.
        shard: As of `infer_file`.
        form: As of `infer_file`.
        max_new_tokens: As of `infer_file`.
        quantize: As of `infer_file`.
        base: As of `infer_file`.
        num_ranks: As of `infer_file`.

    Returns:
        How many rows were answered, for the terminal.

    Raises:
        CvftError: as `infer_file`, and when there is no clip.
        IncompleteError: as `infer_file`.
    """
    _check_output(output)
    rows, num_others = rows_of_folder(folder, make_question(None, query, system=system))
    if num_others:
        LOG.info("note      %d files in %s are no clips", num_others, folder)
    rows = take_share(rows, shard)
    found = find_model(model, base=base, quantize=quantize)
    answering = _answering(found, num_ranks=num_ranks)
    return _infer_rows(
        rows,
        found,
        answering=answering,
        subject=f"folder {folder}",
        output=output,
        form=form,
        max_new_tokens=max_new_tokens,
    )


def _answering(found: FoundModel, *, num_ranks: int) -> Callable[[ExitStack], Answering]:
    """Returns what makes what answers, once it is known that there is something to answer."""
    if num_ranks == 1:
        return lambda stack: stack.enter_context(closing(load_found(found)))
    num_gpus = 0 if found.device == "cpu" else len(read_gpus())
    device = "cuda" if num_gpus else "cpu"
    check_num_ranks(num_ranks, device=device, num_gpus_present=num_gpus)
    return lambda stack: AnsweringRanks(found, num=num_ranks, device=device)


def _infer_rows(
    rows: Sequence[Row],
    found: FoundModel,
    *,
    answering: Callable[[ExitStack], Answering],
    subject: str,
    output: Path,
    form: Form,
    max_new_tokens: int | None,
    cache: ClipCache | None = None,
) -> str:
    partial = partial_file(output)
    if not rows:  # a share of fewer clips than shares: a job array has to find its file
        write_whole(output, write_answers([], {}, form))
        return f"no rows in this share; {output} is empty"
    check_form(rows, form)
    _check(rows, found, max_new_tokens)
    refused = {} if cache is None else fetch_clips(rows, cache)
    settings = {
        **found.fingerprint(),
        "max_new_tokens": max_new_tokens,
        "batch_rows": BATCH_ROWS,
        "rows_sha256": fingerprint_rows(rows),
    }

    def refuse(differing: str) -> None:
        got = f"answers that were made with another {differing}"
        hint = "give another --output, or move that file away to answer anew"
        raise RunError("the answers", [Problem(str(partial), got, "those of the same model, settings and rows", hint)])

    with ExitStack() as stack:
        kept = stack.enter_context(open_answers(partial, rows, settings=settings, on_other=refuse))
        if kept.answers:
            LOG.info("answers   %d of %d are there from before, in %s", len(kept.answers), len(rows), partial)
        answered = answer_rows(
            rows,
            kept,
            answering=lambda: answering(stack),
            batch_rows=BATCH_ROWS,
            max_new_tokens=max_new_tokens,
            description="answering",
        )
        # a clip that could not be fetched is not there: why not is what counts
        bad = {number: _why(rows[number], refused) or error for number, error in answered.bad.items()}
        problems = locate_problems(bad, rows)
        if not answered.answers:
            raise DataError(f"{subject}, of which no row could be answered,", problems)
        set_aside = [Quarantined(rows[number], explain(error)) for number, error in sorted(bad.items())]
        write_quarantine(set_aside, bad_file(output))
        write_whole(output, write_answers(rows, answered.answers, form))
        partial.unlink()
    if num_cut := sum(answer.is_cut for answer in answered.answers.values()):
        LOG.info("note      %d answers were cut: their tokens were used up (`is_cut`)", num_cut)
    if form == "srt":
        num_named = count_moments(answered.answers)
        LOG.info("note      %d of %d answers name a time; the others are not in it", num_named, len(answered.answers))
    if answered.cut:
        more = f"; and {len(answered.cut) - NUM_EXAMPLES} more" if len(answered.cut) > NUM_EXAMPLES else ""
        some = "; ".join(answered.cut[:NUM_EXAMPLES])
        LOG.info("note      %d clips are longer than what is shown of them: %s%s", len(answered.cut), some, more)
    if set_aside:
        said = f"{len(answered.answers)} of {len(rows)} rows answered in {output}; the others are listed in {bad_file(output)}"
        raise IncompleteError(f"{DataError(subject, problems)}\n{said}")
    return f"{len(rows)} rows answered in {output}"


def _why(row: Row, refused: Mapping[ClipRef, ClipError]) -> ClipError | None:
    return next((refused[clip] for clip in row.videos if clip in refused), None)


def _check_output(output: Path) -> None:
    partial = partial_file(output)
    for path, may_exist in ((output, os.path.isfile(partial)), (partial, True), (bad_file(output), True)):
        check_output(path, subject="command line", where="--output", may_exist=may_exist)


def bad_file(output: Path) -> Path:
    """Returns where rows that could not be answered are listed."""
    stem = output.name.removesuffix(".jsonl").removesuffix(".json")
    return output.with_name(f"{stem}.bad.jsonl")


def _check(rows: Sequence[Row], found: FoundModel, max_new_tokens: int | None) -> None:
    check_prompts(rows, family=found.family, folder=found.model, how=found.how, max_new_tokens=max_new_tokens)


def load_found(found: FoundModel) -> Predictor:
    """Loads a model that was found; only now is torch imported."""
    from cvft.predict.open import load_model

    return load_model(found)


def look_at_clip(video: ClipRef, found: FoundModel) -> ClipInfo:
    """Decodes a clip as a model will be shown it, and says what of it will not be shown.

    Args:
        video: The clip.
        found: The model, which need not be loaded.

    Returns:
        What is known of the clip.

    Raises:
        ClipError: when it cannot be decoded.
    """
    decode = found.how.decode
    with decode.make_process() as process:
        seen = process.inspect(video, sampling=decode.sampling, decoder=decode.decoder)
    for note in (*seen.notes, *seen.file_notes):
        LOG.info("note      %s: %s", name_of(video), note)
    return seen
