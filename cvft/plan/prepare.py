"""Before any training: every row and every clip is proved usable, and lengths are counted.

`Job` -> rows that will train, rows held out, facts per clip, tokens per row

Imports no torch: lengths come from the tokenizer alone, clips are decoded in processes of their own.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cvft.data.check import ClipCheck, Quarantined, check_clips
from cvft.data.groups import RowShape
from cvft.data.rows import Row, category_column, category_of, extra_columns, read_rows
from cvft.data.split import split_by_clip
from cvft.data.video.process import ClipInfo
from cvft.errors import DataError, Problem, quote
from cvft.families.family import IGNORED_LABEL, LayOut
from cvft.plan.batching import RowFacts
from cvft.plan.job import Job


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
    """

    train_rows: Sequence[Row]
    val_rows: Sequence[Row]
    quarantined: Sequence[Quarantined]
    clips: Mapping[Path, ClipInfo]
    row_facts: RowFacts
    notes: Sequence[str]


def prepare(job: Job, *, quarantine_file: Path, on_progress: Callable[[int, int], None] | None = None) -> PreparedRows:
    """Proves rows and clips usable, and writes nothing but the quarantine file.

    Args:
        job: The job.
        quarantine_file: Where rows that are set aside are listed.
        on_progress: Called with clips done and clips in all.

    Returns:
        Everything that plan and worker need.

    Raises:
        CvftError: with all problems of the rows, or of the clips, or of the lengths.
    """
    decode = job.preprocessing.decode

    def check(rows: Sequence[Row]) -> ClipCheck:
        return check_clips(
            rows,
            sampling=decode.sampling,
            decoder=decode.decoder,
            on_bad_clip=job.recipe.data.on_bad_clip,
            quarantine_file=quarantine_file,
            timeout_s=decode.timeout_s,
            memory_limit_gib=decode.memory_gib,
            on_progress=on_progress,
        )

    return prepare_rows(job, check=check)


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
    rows = read_rows(recipe.data.train, video_root=recipe.data.video_root)
    held_out = read_rows(recipe.data.val, video_root=recipe.data.video_root) if recipe.data.val else []
    job.family.check_rows([*rows, *held_out], how)
    checked = check([*rows, *held_out])
    set_aside = {id(item.row) for item in checked.quarantined}
    rows = [row for row in rows if id(row) not in set_aside]
    held_out = [row for row in held_out if id(row) not in set_aside]
    if not recipe.data.val and recipe.data.val_fraction:
        rows, held_out = split_by_clip(rows, val_fraction=recipe.data.val_fraction, seed=recipe.seed)
    lay_out = job.family.layouts(job.model.folder, how)
    shapes = measure_rows([*rows, *held_out], lay_out=lay_out, clips=checked.facts)
    _refuse_long_rows([*rows, *held_out], shapes, max_tokens=how.max_tokens)
    return PreparedRows(
        train_rows=rows,
        val_rows=held_out,
        quarantined=checked.quarantined,
        clips=checked.facts,
        row_facts=RowFacts(shapes[: len(rows)], shapes[len(rows) :]),
        notes=_note(rows, held_out, checked.facts),
    )


def measure_rows(rows: Sequence[Row], *, lay_out: LayOut, clips: Mapping[Path, ClipInfo]) -> list[RowShape]:
    """Counts the tokens of each row, answer and EOS included, exactly as training lays them out.

    Clips are told apart by their content: two files with the same bytes are one clip.
    """
    numbers: dict[str, int] = {}
    shapes = []
    for row in rows:
        clip = None if row.video is None else clips[row.video]
        layout = lay_out(row, clip)
        number = None if clip is None else numbers.setdefault(clip.sha256, len(numbers))
        shapes.append(
            RowShape(
                number,
                num_prefix_tokens=layout.num_prefix_tokens,
                num_question_tokens=len(layout) - layout.num_prefix_tokens,
                num_label_tokens=sum(label != IGNORED_LABEL for label in layout.labels),
                num_frames=0 if clip is None else clip.num_frames,
            )
        )
    return shapes


def _note(rows: Sequence[Row], held_out: Sequence[Row], clips: Mapping[Path, ClipInfo]) -> list[str]:
    """Sentences that a user should read before training: nothing is wrong, but it may not be what they think."""
    all_rows = [*rows, *held_out]
    notes = [
        f"column {quote(name)} ({count} rows) is kept but not trained on"
        for name, count in extra_columns(all_rows).items()
    ]
    notes += _note_categories(all_rows)
    used = {row.video for row in all_rows if row.video is not None}
    notes += [f"{path.name}: {note}" for path in sorted(used) for note in clips[path].notes]
    notes += _note_files(used, clips)
    trained_on = {clips[row.video].sha256 for row in rows if row.video is not None}
    shared = {row.video for row in held_out if row.video is not None and clips[row.video].sha256 in trained_on}
    if shared:
        notes.append(f"{len(shared)} clips of the val rows are trained on too: the val numbers will flatter the model")
    return notes


def _note_files(used: Collection[Path], clips: Mapping[Path, ClipInfo]) -> list[str]:
    """What is known of the files themselves: each note once, with the number of clips and three of their names."""
    names_of: dict[str, list[str]] = defaultdict(list)
    for path in sorted(used):
        for note in clips[path].file_notes:
            names_of[note].append(path.name)
    notes = []
    for note, names in names_of.items():
        rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
        notes.append(f"{len(names)} clip{'s' * (len(names) > 1)} ({', '.join(names[:3])}{rest}): {note}")
    return notes


def _note_categories(rows: Sequence[Row]) -> list[str]:
    columns = [category_column(row) for row in rows]
    notes = ["column `family` is read as `category`"] if "family" in columns else []
    unread = Counter(
        column for row, column in zip(rows, columns, strict=True) if column is not None and category_of(row) is None
    )
    return notes + [
        f"column {quote(column)} of {count} rows holds no text: these rows count in the means over all rows only"
        for column, count in sorted(unread.items())
    ]


def _refuse_long_rows(rows: Sequence[Row], shapes: Sequence[RowShape], *, max_tokens: int) -> None:
    hint = "lower video.max_frames, shorten the text, or raise data.max_tokens; rows are never cut"
    problems = [
        Problem(row.location, f"{shape.num_tokens} tokens", f"at most {max_tokens}", hint)
        for row, shape in zip(rows, shapes, strict=True)
        if shape.num_tokens > max_tokens
    ]
    if problems:
        raise DataError("the rows", problems)
