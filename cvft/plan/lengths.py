"""How long rows are, and whether they fit: one check for training, evaluation, inference and the plan. No torch.

rows + layout + facts of clips -> `RowShape`s -> rows that are too long, and prompts that leave no room for an answer
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cvft.data.groups import RowShape
from cvft.data.rows import Row
from cvft.data.video.process import ClipInfo
from cvft.data.video.spec import ClipRef, content_of, is_image
from cvft.errors import ClipError, DataError, Problem
from cvft.families.family import IGNORED_LABEL, Family, KeptFrames, LayOut, Preprocessing
from cvft.weights.folder import ModelFolder

MAX_NEW_TOKENS = 512
"""Longest answer in tokens where nobody says, as far as there is room."""


def answer_limit(family: Family, folder: ModelFolder, how: Preprocessing) -> int:
    """Returns the most tokens that a prompt and its answer may have together.

    The model's context, or `data.max_tokens` where that is more: a lower one is about memory in training.
    """
    return max(family.context_tokens(folder.config), how.max_tokens)


def check_texts(rows: Sequence[Row], *, lay_out: LayOut) -> None:
    """Refuses rows that cannot be laid out, whatever their clips are; before any clip is decoded.

    Raises:
        DataError: with every such row.
        ModelError: when the tokenizer cannot be used.
    """
    problems: list[Problem] = []
    for row in rows:
        try:
            lay_out(row, ())
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError("the rows", problems)


def measure_rows(rows: Sequence[Row], *, lay_out: LayOut, clips: Mapping[ClipRef, ClipInfo]) -> list[RowShape]:
    """Counts the tokens of each row, answer and EOS included, exactly as training lays them out.

    Clips are told apart by their content: two files with the same bytes are one clip, two stretches of one are two.
    """
    numbers: dict[str, int] = {}
    systems: dict[str, int] = {}
    shapes = []
    for row in rows:
        shown = [clips[clip] for clip in row.videos]
        contents = [content_of(clip, info.sha256) for clip, info in zip(row.videos, shown, strict=True)]
        layout = lay_out(row, shown)
        num_tokens = layout.num_clip_tokens if len(shown) > 1 else (sum(layout.token_type_ids),)
        shapes.append(
            RowShape(
                tuple(numbers.setdefault(content, len(numbers)) for content in contents),
                num_prefix_tokens=layout.num_prefix_tokens,
                num_question_tokens=len(layout) - layout.num_prefix_tokens,
                num_label_tokens=len(layout) - layout.labels.count(IGNORED_LABEL),
                num_frames=tuple(clip.num_frames for clip in shown),
                num_clip_tokens=num_tokens if shown else (),
                system=None if row.system is None else systems.setdefault(row.system, len(systems)),
            )
        )
    return shapes


def count_pixels(kept: KeptFrames, clips: Mapping[ClipRef, ClipInfo]) -> int:
    """Counts the bytes of all clips' frames as they are kept, those of clips with the same content once."""
    distinct = {content_of(clip, info.sha256): info for clip, info in clips.items()}
    sizes = ((info.num_frames, *kept.size_px(info.view)) for info in distinct.values())
    return sum(3 * num_frames * height_px * width_px for num_frames, height_px, width_px in sizes)


def check_rows_fit(rows: Sequence[Row], shapes: Sequence[RowShape], *, max_tokens: int) -> None:
    """Refuses rows that are too long to train on.

    Args:
        rows: The rows.
        shapes: Their lengths.
        max_tokens: Most tokens of a row with its answer.

    Raises:
        DataError: with every such row.
    """
    hint = "lower video.max_frames, shorten the text, or raise data.max_tokens; rows are never cut"
    problems = [
        Problem(row.location, f"{shape.num_tokens} tokens", f"at most {max_tokens}", hint)
        for row, shape in zip(rows, shapes, strict=True)
        if shape.num_tokens > max_tokens
    ]
    if problems:
        raise DataError("the rows", problems)


def check_prompts(
    rows: Sequence[Row], *, family: Family, folder: ModelFolder, how: Preprocessing, max_new_tokens: int | None
) -> None:
    """Refuses rows to answer that cannot be laid out or leave no room for their answer, before a model is loaded.

    A clip is decoded only where its row would not fit with a clip of the most frames; one that cannot be is left to whoever
    answers.

    Args:
        rows: The rows.
        family: The model's family.
        folder: Its folder.
        how: How rows reach it.
        max_new_tokens: See `check_answers_fit`.

    Raises:
        DataError: with every such row.
        ModelError: when the tokenizer cannot be used.
    """
    lay_out, decode, max_tokens = family.layouts(folder, how), how.decode, answer_limit(family, folder, how)
    check_texts(rows, lay_out=lay_out)
    longest = family.longest_clip(folder, how)

    def count(row: Row, clips: Sequence[ClipInfo]) -> int:
        return lay_out(row, clips).labels.count(IGNORED_LABEL)

    least = 1 if max_new_tokens is None else max_new_tokens
    counts = [count(row, ()) for row in rows]
    doubtful = [
        number
        for number, row in enumerate(rows)
        if row.videos
        and counts[number] + least <= max_tokens
        # a picture has bounds of its own
        and (is_image(row.videos[0]) or max_tokens < count(row, [longest] * len(row.videos)) + least)
    ]
    if doubtful:
        with decode.make_process() as process:
            clips: dict[ClipRef, ClipInfo | None] = {}
            for number in doubtful:
                for video in rows[number].videos:
                    if video not in clips:
                        try:
                            clips[video] = process.inspect(video, sampling=decode.sampling, decoder=decode.decoder)
                        except ClipError:
                            clips[video] = None
                seen = [clips[video] for video in rows[number].videos]
                if all(seen):
                    counts[number] = count(rows[number], [info for info in seen if info is not None])
    check_answers_fit(rows, counts, max_new_tokens=max_new_tokens, max_tokens=max_tokens)


def check_answers_fit(
    rows: Sequence[Row], num_prompt_tokens: Sequence[int], *, max_new_tokens: int | None, max_tokens: int
) -> list[int]:
    """Refuses rows whose prompt leaves no room for the answer that is asked for.

    Args:
        rows: The rows.
        num_prompt_tokens: Tokens of each row without its answer.
        max_new_tokens: Longest answer in tokens; None takes what is left, up to `MAX_NEW_TOKENS`.
        max_tokens: Most tokens of prompt and answer together.

    Returns:
        The longest answer of each row in tokens, at least 1.

    Raises:
        DataError: with every such row.
    """
    least = 1 if max_new_tokens is None else max_new_tokens
    room = [max_tokens - count for count in num_prompt_tokens]
    fits_all = min(room, default=0)
    hint = (
        f"max_new_tokens of at most {fits_all} fits every row"
        if fits_all > 0
        else "shorten the question or its history"
    )
    asked = "no room" if max_new_tokens is None else f"{max_new_tokens}"
    problems = [
        Problem(row.location, f"{count} tokens and {asked} for the answer", f"at most {max_tokens} together", hint)
        for row, count in zip(rows, num_prompt_tokens, strict=True)
        if count + least > max_tokens
    ]
    if problems:
        raise DataError("the rows to answer", problems)
    return [min(MAX_NEW_TOKENS, left) if max_new_tokens is None else max_new_tokens for left in room]


def note_lengths(
    train: Sequence[RowShape], val: Sequence[RowShape], *, max_new_tokens: int, context_tokens: int
) -> list[str]:
    """Returns sentences on answers that an evaluation would cut, rows beyond the model's context, and rows that go apart.

    Args:
        train: Rows to train on.
        val: Rows held out.
        max_new_tokens: Longest answer of an evaluation in tokens.
        context_tokens: What the model was made for.
    """
    notes = []
    if long := [shape.num_tokens for shape in (*train, *val) if shape.num_tokens > context_tokens]:
        notes.append(
            f"{len(long)} rows have more than the {context_tokens} tokens that the model was made for, up to {max(long)}: "
            "data.max_tokens allows it"
        )
    # an answer ends with a token of its own
    cut = [shape.num_label_tokens for shape in val if shape.num_label_tokens > max_new_tokens]
    if cut:
        notes.append(
            f"{len(cut)} of {len(val)} val rows expect answers longer than eval.max_new_tokens ({max_new_tokens}), up to "
            f"{max(cut)} tokens: what is predicted for them will be cut"
        )
    num_bare = sum(not shape.has_question for shape in (*train, *val))
    if num_bare:
        notes.append(f"{num_bare} rows have no text before their answer: each of them trains and answers apart")
    return notes
