"""Token layout: one question about one clip becomes token ids, token types and labels. No torch.

    [gMASK] <sop> [S ⏎ system] U ⏎ | ( [ V … V ] 0 [ V … V ] 1 … ) | question A ⏎ | answer U
    0                                    1           1                              0          token_type_ids
    -100                                                                            answer U   labels

`S`, `U` and `A` are the control tokens that begin what the system, the user and the model say; `(` and `)` stand around a clip,
`[` and `]` around the tokens `V` of two frames, and behind them their second. A picture is `[ V … V ]` alone. An answer ends
where the next question would begin: with `U`. Text between two control tokens is tokenised as a whole, as the makers' processor
does it; the answer is tokenised on its own, as it is generated.
Source: the chat template of the published checkpoints and transformers 4.57.6's processor; golden vectors hold it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cvft.families.family import IGNORED_LABEL, Layout
from cvft.families.glm4v.inputs import ClipLayout
from cvft.families.glm4v.tokenizer import SpecialTokens
from cvft.families.writer import LayoutWriter


def build_layout(
    encode: Callable[[str], list[int]],
    *,
    special: SpecialTokens,
    clip: ClipLayout | None,
    query: str,
    history: Sequence[tuple[str, str]] = (),
    response: str | None = None,
    system: str | None = None,
) -> Layout:
    """Lays out one row.

    Args:
        encode: Tokenises a piece of text without control tokens.
        special: Ids of control tokens.
        clip: The patches of the clip, or picture, and its seconds, or None for a text-only row.
        query: The question.
        history: Earlier (question, answer) turns.
        response: The answer, for training; None leaves the row open for generation.
        system: System prompt, also an empty one; None for no such turn.

    Returns:
        The row's ids, types and labels. Its prefix ends with the clip's last tag; that of a text-only row with the token that
        begins the first question, as the text behind it is tokenised together with the question.

    Raises:
        DataError: when a text cannot be encoded; who knows the row names it.
    """
    writer = LayoutWriter(encode)
    writer.control(special.mask)
    writer.control(special.start)
    if system is not None:
        _write_turn(writer, special.system, system)
    for number, text in enumerate([*(earlier for earlier, _ in history), query]):
        writer.control(special.user)
        if number == 0 and clip is None:
            num_prefix_tokens = writer.num_tokens
        writer.text("\n")
        if number == 0 and clip is not None:
            if clip.is_image:
                _write_block(writer, special, clip.grid.num_tokens)
            else:
                _write_clip(writer, special, clip)
            num_prefix_tokens = writer.num_tokens
        writer.text(text)
        if number < len(history):
            _write_turn(writer, special.assistant, history[number][1])
    _write_turn(writer, special.assistant, "")
    num_prompt_tokens = writer.num_tokens
    if response is not None:
        writer.text(response)
        writer.control(special.user)
    ids, types = writer.finish()
    labels = [IGNORED_LABEL] * num_prompt_tokens + ids[num_prompt_tokens:]
    return Layout(ids, types, labels, num_prefix_tokens)


def _write_turn(writer: LayoutWriter, role: int, content: str) -> None:
    writer.control(role)
    writer.text(f"\n{content}")


def _write_clip(writer: LayoutWriter, special: SpecialTokens, clip: ClipLayout) -> None:
    assert len(clip.seconds) == clip.grid.num_grids, f"{len(clip.seconds)} seconds for {clip.grid.num_grids} grids"
    writer.control(special.clip_start)
    for second in clip.seconds:
        _write_block(writer, special, clip.grid.num_tokens_per_grid)
        writer.text(str(second))
    writer.control(special.clip_end)


def _write_block(writer: LayoutWriter, special: SpecialTokens, num_tokens: int) -> None:
    writer.control(special.frame_start)
    writer.clip(special.image, num_tokens)
    writer.control(special.frame_end)
