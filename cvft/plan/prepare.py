"""Before any training: every row and every clip is proved usable, and lengths are counted.

`Job` -> rows that will train, rows held out, facts per clip, tokens per row

Imports no torch: lengths come from the tokenizer alone, clips are decoded in processes of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cvft import __version__
from cvft.data.check import ClipCheck, Quarantined, check_clips
from cvft.data.groups import RowShape
from cvft.data.proven import Looks, ProvenClips, look_at
from cvft.data.rows import Row, read_rows
from cvft.data.split import split_by_clip
from cvft.data.video.process import ClipInfo
from cvft.errors import DataError, Problem
from cvft.families.family import IGNORED_LABEL, LayOut
from cvft.plan.batching import RowFacts
from cvft.plan.job import Job
from cvft.plan.notes import note_rows


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
        proven: What the next start need not decode again; None where nothing is to be kept.
    """

    train_rows: Sequence[Row]
    val_rows: Sequence[Row]
    quarantined: Sequence[Quarantined]
    clips: Mapping[Path, ClipInfo]
    row_facts: RowFacts
    notes: Sequence[str]
    proven: ProvenClips | None = None


def prepare(job: Job, *, on_progress: Callable[[int, int], None] | None = None) -> PreparedRows:
    """Proves rows and clips usable, and writes nothing; clips that the run has proved before are not decoded again.

    Args:
        job: The job.
        on_progress: Called with clips done and clips in all.

    Returns:
        Everything that plan and worker need.

    Raises:
        CvftError: with all problems of the rows, or of the clips, or of the lengths.
    """
    decode = job.preprocessing.decode
    how = f"{decode}, version {job.decoder_version}, cvft {__version__}"
    earlier, looks = ProvenClips.read(job.run.proven_clips, how=how), dict[Path, Looks]()

    def check(rows: Sequence[Row]) -> ClipCheck:
        # before they are decoded: a clip that changes meanwhile is decoded again the next time
        looks.update(look_at({row.video for row in rows if row.video is not None}))
        return check_clips(
            rows,
            sampling=decode.sampling,
            decoder=decode.decoder,
            on_bad_clip=job.recipe.data.on_bad_clip,
            timeout_s=decode.timeout_s,
            memory_limit_gib=decode.memory_gib,
            known=earlier.still(looks),
            on_progress=on_progress,
        )

    prepared = prepare_rows(job, check=check)
    return replace(prepared, proven=ProvenClips(how, looks, prepared.clips))


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
        notes=note_rows(rows, held_out, checked.facts, sampling=how.decode.sampling),
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


def _refuse_long_rows(rows: Sequence[Row], shapes: Sequence[RowShape], *, max_tokens: int) -> None:
    hint = "lower video.max_frames, shorten the text, or raise data.max_tokens; rows are never cut"
    problems = [
        Problem(row.location, f"{shape.num_tokens} tokens", f"at most {max_tokens}", hint)
        for row, shape in zip(rows, shapes, strict=True)
        if shape.num_tokens > max_tokens
    ]
    if problems:
        raise DataError("the rows", problems)
