"""Decodes every clip once before training: rows -> rows whose clip decodes, rows set aside with the reason, facts.

Refuses, or sets aside where asked to, every row whose clip does not decode; never puts another row in its place.
"""

from __future__ import annotations

import os
import queue
from collections import defaultdict
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

from cvft.data.catalog import ClipCatalog
from cvft.data.fetch.cache import ClipCache
from cvft.data.fetch.urls import show_url
from cvft.data.rows import Row
from cvft.data.video.loader import DecodeSettings
from cvft.data.video.looks import ClipLooks
from cvft.data.video.process import ClipInfo, DecodeProcess
from cvft.data.video.sample import Sampling
from cvft.data.video.spec import ClipRef, file_of
from cvft.data.video.versions import find_missing_decoder
from cvft.errors import NUM_SHOWN, ClipError, CvftError, DataError, Problem
from cvft.files import write_whole
from cvft.jsonl import to_jsonl

T = TypeVar("T")

MAX_PROCESSES = 8
"""Most decode processes of a check: each may take the memory limit of one, and more would wait for the disk."""


ANSWERS_PER_PROCESS = 2
"""Clips that a process is asked about ahead: the one that it decodes, and the next."""


@dataclass(frozen=True)
class Quarantined:
    """A row that was set aside.

    Args:
        row: The row.
        reason: Why its clip does not decode, in one line.
    """

    row: Row
    reason: str

    def __str__(self) -> str:
        return f"{self.row.location}: {self.reason}"


class ClipCheck(NamedTuple):
    """What `check_clips` found.

    Args:
        rows: The rows to use, in the order given; text-only rows are among them.
        quarantined: The rows set aside, in the order given.
        facts: Clip -> what is known of it, for each clip of `rows`.
    """

    rows: list[Row]
    quarantined: list[Quarantined]
    facts: Mapping[ClipRef, ClipInfo]


class Inspected(NamedTuple):
    """What `inspect_clips` found.

    Args:
        found: Clip -> facts or error, in the order given.
        num_decoded: Clips among them that were decoded now; the others were known.
    """

    found: Mapping[ClipRef, ClipInfo | ClipError]
    num_decoded: int


def check_clips(
    rows: Sequence[Row],
    *,
    sampling: Sampling,
    decoder: str = "pyav",
    on_bad_clip: Literal["error", "quarantine"] = "error",
    timeout_s: float = 60.0,
    memory_limit_gib: float = 4.0,
    num_workers: int | None = None,
    catalog: ClipCatalog | None = None,
    cache: ClipCache | None = None,
    may_leave_none: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> ClipCheck:
    """Decodes each distinct clip once, in decode processes, with the rule that training will use; fetches those of URLs before.

    Args:
        rows: Rows as `read_rows` returns them.
        sampling: The rule.
        decoder: `pyav` or `decord`.
        on_bad_clip: `error` refuses the data when any clip is bad; `quarantine` sets the rows of bad clips aside.
        timeout_s: See `DecodeProcess`.
        memory_limit_gib: See `DecodeProcess`; for each of them.
        num_workers: Decode processes at the same time; without it, as many as there are CPUs for, up to `MAX_PROCESSES`.
        catalog: What is known of clips that were decoded in this way: these are not decoded again, and all others are recorded.
        cache: Fetches clips of URLs; without it, those that are not there are bad.
        may_leave_none: Whether no row may be left: of a share, all clips may be bad.
        on_progress: Called with the number of clips done and of all clips, after each.

    Returns:
        The rows to use, the rows set aside, and facts on each clip of the former.

    Raises:
        DataError: Clips are bad and `on_bad_clip` is `error`: every one of them, with file, lines and reason. Or no
            row is left, or the decoder is not installed.
        RunError: The decode process cannot be started at all.
    """
    rows_of: dict[ClipRef, list[Row]] = defaultdict(list)
    for row in rows:
        for clip in dict.fromkeys(row.videos):
            rows_of[clip].append(row)

    refused = {} if cache is None else fetch_clips(rows, cache)
    inspected, _ = inspect_clips(
        [path for path in rows_of if path not in refused],
        sampling=sampling,
        decoder=decoder,
        timeout_s=timeout_s,
        memory_limit_gib=memory_limit_gib,
        num_workers=num_workers,
        catalog=catalog,
        on_progress=on_progress,
    )
    found: dict[ClipRef, ClipInfo | ClipError] = {clip: refused.get(clip) or inspected[clip] for clip in rows_of}
    bad = {path: outcome for path, outcome in found.items() if isinstance(outcome, ClipError)}
    facts = {path: outcome for path, outcome in found.items() if isinstance(outcome, ClipInfo)}
    problems = [report_clip(clip, error, rows_of[clip]) for clip, error in bad.items()]
    if bad and on_bad_clip == "error":
        raise DataError("the check of clips", problems)
    good_rows, quarantined = [], []
    for row in rows:
        why = [explain(bad[clip]) for clip in dict.fromkeys(row.videos) if clip in bad]
        if why:
            quarantined.append(Quarantined(row, "; ".join(why)))
        else:
            good_rows.append(row)
    if bad and not good_rows and not may_leave_none:
        raise DataError("the check of clips, which leaves no row,", problems)
    used = {clip for row in good_rows for clip in row.videos}  # a good clip may stand beside bad ones alone
    return ClipCheck(good_rows, quarantined, {clip: facts[clip] for clip in facts if clip in used})


def fetch_clips(rows: Sequence[Row], cache: ClipCache) -> Mapping[ClipRef, ClipError]:
    """Fetches the clips that rows name by URL and that are not there yet.

    Args:
        rows: The rows.
        cache: Fetches them.

    Returns:
        Clip -> why it could not be fetched, for those.

    Raises:
        RunError: The cache cannot be written.
    """
    named = [clip_with_url for row in rows if row.urls for clip_with_url in row.clips_by_url.items()]
    refused = cache.fetch({file_of(clip): url for clip, url in named})
    return {clip: refused[file_of(clip)] for clip, _ in named if file_of(clip) in refused}


def inspect_clips(
    clips: Sequence[ClipRef],
    *,
    sampling: Sampling,
    decoder: str = "pyav",
    timeout_s: float = 60.0,
    memory_limit_gib: float = 4.0,
    num_workers: int | None = None,
    catalog: ClipCatalog | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Inspected:
    """Decodes clips once each, in decode processes, and says of each what is known or why it does not decode.

    Args:
        clips: The clips, each once.
        sampling: The rule.
        decoder: `pyav` or `decord`.
        timeout_s: See `DecodeProcess`.
        memory_limit_gib: See `DecodeProcess`; for each of them.
        num_workers: See `check_clips`.
        catalog: See `check_clips`.
        on_progress: Called with the number of clips done and of all clips, after each.

    Returns:
        Facts or error of each clip, and how many were decoded for them.

    Raises:
        DataError: The decoder is not installed.
        RunError: The decode process cannot be started at all.
    """
    if missing := find_missing_decoder(decoder):  # said once, not once per clip
        raise DataError("the check of clips", [missing])
    found: dict[ClipRef, ClipInfo | ClipError] = {} if catalog is None else {**catalog.find(clips)}
    unknown = [clip for clip in clips if clip not in found]
    decode = DecodeSettings(sampling, decoder, timeout_s, memory_limit_gib)
    for clip, outcome in ask_processes(
        unknown,
        lambda process, clip: process.inspect(clip, sampling=sampling, decoder=decoder),
        decode=decode,
        num_workers=num_workers,
    ):
        found[clip] = outcome
        if catalog is not None and isinstance(outcome, ClipInfo):
            catalog.record(clip, outcome)
        if on_progress is not None:
            on_progress(len(found), len(clips))
    return Inspected({clip: found[clip] for clip in clips}, len(unknown))


def look_at_clips(
    clips: Mapping[ClipRef, str],
    *,
    decode: DecodeSettings,
    num_workers: int | None = None,
    catalog: ClipCatalog | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[ClipRef, ClipLooks]:
    """Finds out what clips look like, those of one content once.

    Args:
        clips: Clip -> what tells its content from others, such as the hash of its bytes; clips that decode.
        decode: How they are decoded; the sampling rule is that of looks.
        num_workers: See `check_clips`.
        catalog: See `check_clips`.
        on_progress: Called with the number of clips done and of all clips, after each.

    Returns:
        Clip -> looks; those that are too large to look at are left out.
    """
    found = {} if catalog is None else catalog.find_looks(clips.values())
    unknown = {sha256: path for path, sha256 in clips.items() if sha256 not in found}
    hashes = {path: sha256 for sha256, path in unknown.items()}
    answers = ask_processes(
        list(hashes),
        lambda process, path: process.look(path, decoder=decode.decoder),
        decode=decode,
        num_workers=num_workers,
    )
    for num_done, (path, outcome) in enumerate(answers, start=1):
        if not isinstance(outcome, ClipError):
            found[hashes[path]] = outcome
            if catalog is not None:
                catalog.record_looks(hashes[path], outcome)
        if on_progress is not None:
            on_progress(num_done, len(hashes))
    return {path: found[sha256] for path, sha256 in clips.items() if sha256 in found}


def ask_processes(
    clips: Sequence[ClipRef],
    ask: Callable[[DecodeProcess, ClipRef], T],
    *,
    decode: DecodeSettings,
    num_workers: int | None,
) -> Generator[tuple[ClipRef, T | ClipError], None, None]:
    """Asks decode processes about clips, several at the same time.

    Args:
        clips: The clips, each once.
        ask: Asks one process about one clip.
        decode: Limits of the processes.
        num_workers: See `check_clips`.

    Yields:
        Each clip with what was answered, or why it does not decode, as they are done. No more than a few answers for each process
        wait for the caller: frames would fill the memory.
    """
    num_workers = min(num_workers or count_processes(), len(clips)) or 1
    processes: queue.SimpleQueue[DecodeProcess] = queue.SimpleQueue()
    for _ in range(num_workers):
        processes.put(decode.make_process())

    def answer(clip: ClipRef) -> T | ClipError:
        process = processes.get()
        try:
            return ask(process, clip)
        except ClipError as error:
            return error
        finally:
            processes.put(process)

    pool, unasked = ThreadPoolExecutor(max_workers=num_workers), iter(clips)
    try:
        asked = {pool.submit(answer, clip): clip for clip in islice(unasked, num_workers * ANSWERS_PER_PROCESS)}
        while asked:
            done = wait(asked, return_when=FIRST_COMPLETED).done
            for each in [each for each in asked if each in done]:
                asked |= {pool.submit(answer, clip): clip for clip in islice(unasked, 1)}
                yield asked.pop(each), each.result()
    finally:
        pool.shutdown(cancel_futures=True)
        for _ in range(num_workers):
            processes.get().close()


def count_processes() -> int:
    """Returns how many decode processes may work at the same time on this machine."""
    num_cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(num_cpus, MAX_PROCESSES)


def explain(error: CvftError) -> str:
    """Says in one line why a row was set aside."""
    return "; ".join(f"{problem.where}: got {problem.got}, need {problem.need}" for problem in error.problems)


def report_clip(clip: ClipRef, error: ClipError, rows: Sequence[Row]) -> Problem:
    """Names the rows of a bad clip as well as what is wrong with it.

    Args:
        clip: The clip.
        error: What is wrong.
        rows: At least one row.
    """
    problem = error.problems[0]
    hint = problem.hint
    url, file = rows[0].clips_by_url.get(clip), file_of(clip)
    if url is not None and file.is_file():
        again = f"remove {file} to fetch it again from {show_url(url)}"
        hint = f"{hint}; {again}" if hint else again
    return Problem(f"{name_rows(rows)}: {problem.where}", problem.got, problem.need, hint)


def name_rows(rows: Sequence[Row]) -> str:
    """Names the rows of one clip: the first ones of the first one's file, and how many there are beside them.

    Args:
        rows: At least one row.
    """
    same_file = [row for row in rows if row.source == rows[0].source][:NUM_SHOWN]
    where = ", ".join([rows[0].location, *(str(row.line) for row in same_file[1:])])
    num_more = len(rows) - len(same_file)
    if num_more:
        where += f" and {num_more} more row{'s' if num_more > 1 else ''}"
    return f"{where} `videos`"


def write_quarantine(quarantined: Sequence[Quarantined], path: Path) -> None:
    """Writes the rows that were set aside, as JSONL: reason, source, line and the row itself.

    Args:
        quarantined: The rows.
        path: The file; an older one is replaced, or removed when no row is set aside.
    """
    if not quarantined:
        path.unlink(missing_ok=True)
        return
    lines = (
        {"reason": item.reason, "source": str(item.row.source), "line": item.row.line, "row": item.row.to_json()}
        for item in quarantined
    )
    write_whole(path, to_jsonl(lines))
