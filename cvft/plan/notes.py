"""What a user should read before training: nothing is wrong, but it may not be what they think.

rows + facts of their clips -> one sentence per kind of thing, with its count and three examples
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from cvft.data.row_columns import category_column
from cvft.data.rows import Row, category_of, extra_columns
from cvft.data.tags import CONTROL_TOKEN
from cvft.data.times import read_time
from cvft.data.video.process import ClipInfo
from cvft.data.video.sample import Sampling, cut_note, shown_seconds
from cvft.data.video.spec import ClipRef, ClipSpec, file_of, is_image, is_stretch, name_of, sampling_for, sort_key
from cvft.errors import quote
from cvft.plan.plan import Plan

NUM_EXAMPLES = 3
"""Examples that stand for all things of a kind."""

MEAN_OF_FIRST_MATRIX = 3**-0.5
"""Mean size of what a LoRA's first matrix makes of inputs of size 1. Source: peft starts it with `kaiming_uniform_(a=sqrt(5))`,
whose weights have the variance 1 / (3 * width)."""

MIN_CHANGE = 0.01
"""Share of a layer's output that a training has to be able to change, to be worth its name."""

NUMBER = re.compile(r"\d+(?:\.\d+)?")


def note_rows(
    rows: Sequence[Row], held_out: Sequence[Row], clips: Mapping[ClipRef, ClipInfo], *, sampling: Sampling
) -> list[str]:
    """Writes what is worth knowing of rows and clips.

    Args:
        rows: Rows to train on.
        held_out: Rows held out.
        clips: Facts per clip.
        sampling: The rule that chooses frames.

    Returns:
        Sentences; one per kind of thing, however many rows or clips it is about.
    """
    all_rows = [*rows, *held_out]
    used = {clip: clips[clip] for row in all_rows for clip in row.videos}
    notes = [
        *_note_formats(all_rows),
        *_note_columns(all_rows),
        *_note_categories(all_rows),
        *_note_numbers(all_rows),
        *_note_texts(all_rows),
        *_note_systems(all_rows),
        *_note_stretches(all_rows),
        *_note_images(all_rows),
        *_note_several(all_rows),
        *_note_budgets(all_rows),
    ]
    notes += [*_note_long_clips(all_rows, used, sampling=sampling), *_note_clips(used, sampling=sampling)]
    trained_on = {clips[clip].sha256 for row in rows for clip in row.videos}
    shared = {file_of(clip) for row in held_out for clip in row.videos if clips[clip].sha256 in trained_on}
    if shared:
        notes.append(f"{len(shared)} clips of the val rows are trained on too: the val numbers will flatter the model")
    return notes


def note_plan(plan: Plan) -> list[str]:
    """Writes what is worth knowing of a plan itself: that it teaches next to nothing.

    An adapter is a product of two matrices, of which the second starts at zero. AdamW moves each of its weights by at most about
    the learning rate in a step, so after a run none is further from zero than the sum of the learning rates. What a layer gives
    has then changed by at most that, times alpha (and the square root of the rank with rsLoRA), times the mean size of what the
    first matrix makes of inputs of size 1, which its start decides. That says nothing of a projector that is trained wholly.
    """
    swift = plan.swift
    if "adapters" in swift or "modules_to_save" in swift:  # not all starts at zero
        return []
    mean_rate = swift["learning_rate"] * (1.0 if swift["lr_scheduler_type"].startswith("constant") else 0.5)
    gain = swift["lora_alpha"] * (swift["lora_rank"] ** 0.5 if swift["use_rslora"] else 1.0)
    change = plan.worker.num_steps * mean_rate * gain * MEAN_OF_FIRST_MATRIX
    if change >= MIN_CHANGE:
        return []
    steps = f"{plan.worker.num_steps} step{'s' if plan.worker.num_steps > 1 else ''}"
    return [
        f"{steps} at a peak learning rate of {swift['learning_rate']:g} will teach next to nothing: an adapter starts at zero, "
        f"and so few updates change what its layers give by at most about {change:.1%}; more train.epochs, or fewer "
        "train.global_batch_rows, make more steps"
    ]


def name_examples(names: Iterable[str]) -> str:
    """Names the first things of a kind, and counts the others."""
    listed = list(names)
    more = len(listed) - NUM_EXAMPLES
    return ", ".join(listed[:NUM_EXAMPLES]) + (f" and {more} more" if more > 0 else "")


def _note_formats(rows: Sequence[Row]) -> list[str]:
    counts = Counter((row.source, row.format) for row in rows if row.format != "native")
    return [f"{source} is read as {quote(name)}: {count} rows" for (source, name), count in counts.items()]


def _note_columns(rows: Sequence[Row]) -> list[str]:
    columns = [f"{quote(name)} ({count} rows)" for name, count in extra_columns(rows).items()]
    if len(columns) > NUM_EXAMPLES:
        return [f"{len(columns)} columns are kept but not trained on: {name_examples(columns)}"]
    return [f"column {column} is kept but not trained on" for column in columns]


def _note_categories(rows: Sequence[Row]) -> list[str]:
    columns = [category_column(row.extra) for row in rows]
    notes = ["column `family` is read as `category`"] if "family" in columns else []
    unread = Counter(
        column for row, column in zip(rows, columns, strict=True) if column is not None and category_of(row) is None
    )
    return notes + [
        f"column {quote(column)} of {count} rows holds no text: these rows count in the means over all rows only"
        for column, count in sorted(unread.items())
    ]


def _note_numbers(rows: Sequence[Row]) -> list[str]:
    """Says in which columns numbers and booleans stand for text."""
    taken: dict[str, list[str]] = {}
    for row in rows:
        for column in row.taken_as_text:
            taken.setdefault(column, []).append(f"{row.source.name}:{row.line}")
    return [
        f"column {quote(column)} holds numbers or booleans in {len(found)} rows ({name_examples(found)}): taken as text"
        for column, found in taken.items()
    ]


def _note_texts(rows: Sequence[Row]) -> list[str]:
    """Says where tags for the clip were taken out, and where control tokens were typed."""
    notes = []
    if tagged := [f"{row.source.name}:{row.line}" for row in rows if row.had_tags]:
        notes.append(
            f"the tags that stand for the clip are taken out of {len(tagged)} rows ({name_examples(tagged)}): the clip always "
            "comes before the text"
        )
    typed = []
    for row in rows:
        texts = (row.system or "", row.query, row.response, *(text for turn in row.history for text in turn))
        if found := next(filter(None, map(CONTROL_TOKEN.search, texts)), None):
            typed.append(f"{quote(found[0])} in {row.source.name}:{row.line}")
    if typed:
        notes.append(
            f"{len(typed)} rows hold what looks like a control token ({name_examples(typed)}): it is plain text"
        )
    return notes


def _note_systems(rows: Sequence[Row]) -> list[str]:
    """Says how many rows have system texts of their own."""
    having = [f"{row.source.name}:{row.line}" for row in rows if row.system is not None]
    if not having:
        return []
    num_texts = len({row.system for row in rows} - {None})
    return [
        f"{len(having)} of {len(rows)} rows ({name_examples(having)}) have a system text of their own, {num_texts} different: "
        "rows of one clip train together where theirs is the same"
    ]


def _note_stretches(rows: Sequence[Row]) -> list[str]:
    """Says how many rows show a part of their file: columns of that name may have been meant otherwise."""
    shown = [f"{row.source.name}:{row.line}" for row in rows if any(map(is_stretch, row.videos))]
    if not shown:
        return []
    return [
        f"{len(shown)} rows ({name_examples(shown)}) show a stretch of their file (`start`, `end`), whose seconds count from its "
        "first frame"
    ]


def _note_images(rows: Sequence[Row]) -> list[str]:
    """Says how many rows show a picture."""
    count = sum(any(map(is_image, row.videos)) for row in rows)
    return [f"{count} of {len(rows)} rows show pictures, which the model takes as images"] if count else []


def _note_several(rows: Sequence[Row]) -> list[str]:
    """Says how many rows show several clips or pictures."""
    counts = [len(row.videos) for row in rows if len(row.videos) > 1]
    if not counts:
        return []
    many = f"{counts[0]}" if len(set(counts)) == 1 else f"{min(counts)} to {max(counts)}"
    return [
        f"{len(counts)} of {len(rows)} rows show {many} clips or pictures each, one after the other before their text"
    ]


def _note_budgets(rows: Sequence[Row]) -> list[str]:
    """Says how many rows have frames of their own number or rate."""
    counts = Counter(
        budget
        for row in rows
        for budget in {(clip.max_frames, clip.fps) for clip in row.videos if isinstance(clip, ClipSpec)}
        if budget != (None, None)
    )
    return [
        f"{count} rows are shown "
        + " and ".join(
            [f"at most {most} frames"] * (most is not None) + [f"{fps or 0:g} frames per second"] * (fps is not None)
        )
        + " by their own budget"
        for (most, fps), count in sorted(counts.items(), key=lambda item: -item[1])
    ]


def _note_long_clips(rows: Sequence[Row], clips: Mapping[ClipRef, ClipInfo], *, sampling: Sampling) -> list[str]:
    """Says which clips the rule cuts, and how many answers speak of what it does not show."""
    shown_s = {
        clip: _shown_s(info, sampling_for(clip, sampling))
        for clip, info in clips.items()
        if _is_cut(info, sampling_for(clip, sampling))
    }
    if not shown_s:
        return []
    long = sorted(shown_s, key=lambda clip: (-clips[clip].duration_s, sort_key(clip)))
    examples = name_examples(f"{name_of(clip)} {clips[clip].duration_s:.1f} s" for clip in long)
    most_s = max(shown_s.values())
    note = (
        f"{len(long)} of {len(clips)} clips are longer than the {most_s:g} s that {quote(sampling.strategy)} sampling shows "
        f"({examples})"
    )
    last_named = [
        (named.end_s, shown_s[row.videos[0]])
        for row in rows
        if len(row.videos) == 1  # of several clips, nobody knows which of them the second is of
        and row.videos[0] in shown_s
        and (named := read_time(row.response)) is not None
        # a second that the clip does not have is not one of its seconds
        and named.end_s <= clips[row.videos[0]].duration_s
    ]
    if last_named:
        num_beyond = sum(second >= shown for second, shown in last_named)
        note += (
            f"; of {len(last_named)} answers about them that name a second, {num_beyond} "
            f"({num_beyond / len(last_named):.0%}) name one beyond it"
        )
    return [f"{note}; video.sampling=uniform shows whole clips, at wider steps"]


def _note_clips(clips: Mapping[ClipRef, ClipInfo], *, sampling: Sampling) -> list[str]:
    """Writes the notes on single clips, one for all that differ in numbers alone."""
    kinds: dict[str, list[tuple[str, str]]] = {}
    for clip in sorted(clips, key=sort_key):
        for note in (*clips[clip].notes, *clips[clip].file_notes):
            if note != _cut_note(clips[clip], sampling_for(clip, sampling)):
                kinds.setdefault(NUMBER.sub("#", note), []).append((name_of(clip), note))
    notes = []
    for alike in kinds.values():
        name, note = alike[0]
        others = f"{note} ({len(alike)} clips alike: {name_examples(name for name, _ in alike)})"
        notes.append(f"{name}: {note}" if len(alike) == 1 else others)
    return notes


def _shown_s(info: ClipInfo, sampling: Sampling) -> float:
    return shown_seconds(
        num_frames_total=info.num_frames_total, avg_fps=info.avg_fps, duration_s=info.duration_s, sampling=sampling
    )


def _cut_note(info: ClipInfo, sampling: Sampling) -> str:
    return cut_note(duration_s=info.duration_s, shown_s=_shown_s(info, sampling), sampling=sampling)


def _is_cut(info: ClipInfo, sampling: Sampling) -> bool:
    return _cut_note(info, sampling) in info.notes  # a clip that stands for another one has no notes
