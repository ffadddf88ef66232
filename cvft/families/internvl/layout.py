"""Token layout: one question about one clip becomes token ids, token types and labels. No torch.

    [S system ⏎ ... E ⏎] S user ⏎ | Frame1: ( V … V ) ⏎ Frame2: ( V … V ) | ⏎ question E ⏎ S assistant ⏎ | answer E
    0                                       1                   1           0                             0         types
    -100                                                                                                  answer E  labels

`S` and `E` are the control tokens that start and end a turn, `(` and `)` those around a frame's tokens `V`. Text between two
control tokens is tokenised as a whole, as the makers' processor does it; the answer is tokenised on its own, as it is generated.
Earlier turns stand behind the clip, which belongs to the first question. No time is written: what the model knows of it is the
order of the frames.
Source: the chat template of the published checkpoints, which has no system prompt of its own, and transformers 4.57.6's
processor; golden vectors hold it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cvft.families.family import IGNORED_LABEL, Layout
from cvft.families.internvl.tokenizer import SpecialTokens
from cvft.families.writer import LayoutWriter

NO_IMAGES = "InternVL's makers cut a picture into tiles, and that is not built here"
"""Why a row may not show a picture in place of a clip."""


def build_layout(
    encode: Callable[[str], list[int]],
    *,
    special: SpecialTokens,
    num_frames: int,
    tokens_per_frame: int,
    query: str,
    history: Sequence[tuple[str, str]] = (),
    response: str | None = None,
    system: str | None = None,
) -> Layout:
    """Lays out one row.

    Of the answer, its tokens and the token that ends its turn are trained; no newline follows, as nothing would be trained on it.

    Args:
        encode: Tokenises a piece of text without control tokens.
        special: Ids of control tokens.
        num_frames: Frames of the clip that are shown; 0 for a text-only row.
        tokens_per_frame: Tokens of each.
        query: The question.
        history: Earlier (question, answer) turns.
        response: The answer, for training; None leaves the row open for generation.
        system: System prompt, also an empty one; None for no such turn.

    Returns:
        The row's ids, types and labels. Its prefix ends with the last frame's tag; that of a text-only row with the token that
        starts the first user turn, as the text behind it is tokenised together with the question.

    Raises:
        DataError: when a text cannot be encoded; who knows the row names it.
    """
    writer = LayoutWriter(encode)
    if system is not None:
        _write_turn(writer, special, "system", system)
    for number, text in enumerate([*(earlier for earlier, _ in history), query]):
        writer.control(special.turn_start)
        if number == 0 and not num_frames:
            num_prefix_tokens = writer.num_tokens
        writer.text("user\n")
        if number == 0 and num_frames:
            _write_clip(writer, special, num_frames, tokens_per_frame)
            num_prefix_tokens = writer.num_tokens
            writer.text("\n")
        writer.text(text)
        writer.control(special.turn_end)
        writer.text("\n")
        if number < len(history):
            _write_turn(writer, special, "assistant", history[number][1])
    writer.control(special.turn_start)
    writer.text("assistant\n")
    num_prompt_tokens = writer.num_tokens
    if response is not None:
        writer.text(response)
        writer.control(special.turn_end)
    ids, types = writer.finish()
    labels = [IGNORED_LABEL] * num_prompt_tokens + ids[num_prompt_tokens:]
    return Layout(ids, types, labels, num_prefix_tokens)


def _write_turn(writer: LayoutWriter, special: SpecialTokens, role: str, content: str) -> None:
    writer.control(special.turn_start)
    writer.text(f"{role}\n{content}")
    writer.control(special.turn_end)
    writer.text("\n")


def _write_clip(writer: LayoutWriter, special: SpecialTokens, num_frames: int, tokens_per_frame: int) -> None:
    for number in range(num_frames):
        writer.text(f"{'' if number == 0 else chr(10)}Frame{number + 1}: ")
        writer.control(special.frame_start)
        writer.clip(special.image, tokens_per_frame)
        writer.control(special.frame_end)
