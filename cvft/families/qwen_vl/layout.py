"""Token layout: one question about one clip becomes token ids, token types and labels. No torch.

    [S system ⏎ ... E ⏎] S user ⏎ | clip | question E ⏎ S assistant ⏎ | answer E
    0                              1      0                             0         token_type_ids
    -100                                                                answer E  labels

    clip of Qwen2.5-VL:          ( V V V ... V )
    clip of Qwen3-VL, Qwen3.5:   <0.3 seconds>( V ... V )<1.4 seconds>( V ... V ) ...
    a picture, of all of them:   ( I I I ... I )

`S` and `E` are the control tokens that start and end a turn, `(` and `)` those around tokens of a clip, `V`, or a picture, `I`.
Text between two control tokens is tokenised as a whole, as the makers' processors do it; the answer is tokenised on its own, as
it is generated. Earlier turns stand behind the clip, which belongs to the first question.
Source: the published chat templates, and transformers 4.57.6's processors; golden vectors hold it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from cvft.errors import ModelError, Problem, quote
from cvft.families.family import IGNORED_LABEL, Layout
from cvft.families.grid import Grid
from cvft.families.qwen_vl.tokenizer import THINKING, SpecialTokens
from cvft.families.text_encoder import HINT
from cvft.families.writer import LayoutWriter
from cvft.weights.folder import TOKENIZER_FILE

ClipTags = Literal["released", "transformers5"]
"""Whether a clip of Qwen3-VL or Qwen3.5 stands within one more pair of vision tags, beside those of its temporal grids.

`released`: it does not, as in transformers 4.57. `transformers5`: it does, as in transformers from 5.10 on."""


@dataclass(frozen=True)
class ClipLayout:
    """What a row says of one of its clips.

    Args:
        grid: Its patches.
        seconds: The second of each temporal grid, as `cvft.families.qwen_vl.times.shown_seconds` returns them; where the style
            shows none, they may be empty.
        grid_step: Positions from one temporal grid to the next, where time is told by positions; else 0.
        is_image: Whether it is a picture, which has tokens of its own and no second.
    """

    grid: Grid
    seconds: Sequence[float] = ()
    grid_step: float = 0.0
    is_image: bool = False


@dataclass(frozen=True)
class Style:
    """How a generation of the family writes a row.

    Args:
        system: System prompt of rows that have none of their own, or None for no such turn.
        has_seconds: Whether each temporal grid has its tags and stands behind its second, rather than all within one pair.
        has_thinking: Whether an answer stands behind an empty thought. It is part of the prompt and not trained.
        trims: Whether texts lose white space at their ends.
    """

    system: str | None = None
    has_seconds: bool = True
    has_thinking: bool = False
    trims: bool = False


STYLES = {
    "qwen2_5_vl": Style(system="You are a helpful assistant.", has_seconds=False),
    "qwen3_vl": Style(),
    "qwen3_5": Style(has_thinking=True, trims=True),
}
"""Styles by the generation's name. Source: the chat templates of the published checkpoints, thinking off."""


def build_layout(
    encode: Callable[[str], list[int]],
    *,
    style: Style,
    special: SpecialTokens,
    clips: Sequence[ClipLayout] = (),
    clip_tags: ClipTags = "released",
    query: str,
    history: Sequence[tuple[str, str]] = (),
    response: str | None = None,
    system: str | None = None,
) -> Layout:
    """Lays out one row.

    Of the answer, its tokens and the token that ends its turn are trained; no newline follows, as nothing would be trained on it.

    Args:
        encode: Tokenises a piece of text without control tokens.
        style: How the generation writes rows.
        special: Ids of control tokens.
        clips: What the row says of each of its clips, which stand before the first question with nothing between; none for a row
            of text only.
        clip_tags: See `ClipTags`; without effect where the style shows no seconds.
        query: The question.
        history: Earlier (question, answer) turns.
        response: The answer, for training; None leaves the row open for generation.
        system: The row's system prompt, also an empty one; None takes the style's.

    Returns:
        The row's ids, types and labels. Its prefix ends with the last tag of the last clip; that of a row of text only with the
        token that starts the first user turn, as the text behind it is tokenised together with the question.

    Raises:
        DataError: when a text cannot be encoded; who knows the row names it.
        ModelError: when the style asks for a control token that the vocabulary lacks.
    """
    writer = LayoutWriter(encode)
    system = style.system if system is None else system
    if system is not None:
        _write_turn(writer, special, "system", _trim(system, style))
    queries = [*(earlier for earlier, _ in history), query]
    for number, text in enumerate(queries):
        writer.control(special.turn_start)
        if number == 0 and not clips:
            num_prefix_tokens = writer.num_tokens
        writer.text("user\n")
        if number == 0 and clips:
            for clip in clips:
                if clip.is_image:
                    _write_block(writer, special, special.image, clip.grid.num_tokens)
                else:
                    _write_clip(writer, special, clip.grid, clip.seconds, style=style, clip_tags=clip_tags)
            num_prefix_tokens = writer.num_tokens
            text = text.rstrip() if style.trims else text  # the clip stands before it: it is the content's end alone
        else:
            text = _trim(text, style)
        writer.text(text)
        writer.control(special.turn_end)
        writer.text("\n")
        if number < len(history):
            _write_turn(writer, special, "assistant", _trim(history[number][1], style))
    writer.control(special.turn_start)
    writer.text("assistant\n")
    if style.has_thinking:
        _write_empty_thought(writer, special)
    num_prompt_tokens = writer.num_tokens
    if response is not None:
        writer.text(_trim(response, style))
        writer.control(special.turn_end)
    ids, types = writer.finish()
    labels = [IGNORED_LABEL] * num_prompt_tokens + ids[num_prompt_tokens:]
    return Layout(ids, types, labels, num_prefix_tokens, tuple(clip.grid.num_tokens for clip in clips))


def _trim(text: str, style: Style) -> str:
    return text.strip() if style.trims else text


def _write_turn(writer: LayoutWriter, special: SpecialTokens, role: str, content: str) -> None:
    writer.control(special.turn_start)
    writer.text(f"{role}\n{content}")
    writer.control(special.turn_end)
    writer.text("\n")


def _write_clip(
    writer: LayoutWriter,
    special: SpecialTokens,
    grid: Grid,
    seconds: Sequence[float],
    *,
    style: Style,
    clip_tags: ClipTags,
) -> None:
    if not style.has_seconds:
        _write_block(writer, special, special.video, grid.num_tokens)
        return
    assert len(seconds) == grid.num_grids, f"{len(seconds)} seconds for {grid.num_grids} grids"
    if clip_tags == "transformers5":
        writer.control(special.vision_start)
    for second in seconds:
        writer.text(f"<{second:.1f} seconds>")
        _write_block(writer, special, special.video, grid.num_tokens_per_grid)
    if clip_tags == "transformers5":
        writer.control(special.vision_end)


def _write_block(writer: LayoutWriter, special: SpecialTokens, placeholder: int, num_tokens: int) -> None:
    writer.control(special.vision_start)
    writer.clip(placeholder, num_tokens)
    writer.control(special.vision_end)


def _write_empty_thought(writer: LayoutWriter, special: SpecialTokens) -> None:
    if special.think_start is None or special.think_end is None:
        problem = Problem(TOKENIZER_FILE, "no such tokens", f"{quote(THINKING[0])} and {quote(THINKING[1])}", HINT)
        raise ModelError("the tokenizer", [problem])
    writer.control(special.think_start)
    writer.text("\n\n")
    writer.control(special.think_end)
    writer.text("\n\n")
