"""Token layout: one question about one clip becomes token ids, token types and labels. No torch.

    BOS | frame 0: V V ... V  "0" | frame 1: V V ... V  "1" | ... | prompt text | answer EOS
    0     1 1 ... 1   0             1 1 ... 1   0                   0 ...         0 ...     token_type_ids
    -100  ...                                                       -100          answer EOS  labels

`V` is the vision placeholder; the time index after a frame exists in templates that have one. Every piece is tokenised
on its own and concatenated, so the clip's tokens never depend on the text.
Source: `build_conversation_input_ids` of the published modelling file; golden vectors hold it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cvft.errors import DataError, Problem, quote
from cvft.families.cogvlm2_video.tokenizer import encode_time_index
from cvft.families.family import IGNORED_LABEL, Layout

NO_IMAGES = "CogVLM2-Video was made for clips alone"
"""Why a row may not show a picture in place of a clip."""


@dataclass(frozen=True)
class Template:
    """How a prompt is written and whether frames carry their time index.

    Args:
        name: Name in recipes and contracts.
        cue: Text before the answer, or None when the query is the whole prompt and there is no history.
        history_gap: Text between the cue and the answer of an earlier turn.
        has_time_indices: Whether each frame is followed by its index (its second, with 1-fps sampling).
    """

    name: str
    cue: str | None
    history_gap: str = " "
    has_time_indices: bool = False

    @property
    def has_history(self) -> bool:
        """Whether earlier turns reach the model."""
        return self.cue is not None

    def write_prompt(self, query: str, history: Sequence[tuple[str, str]] = ()) -> str:
        """Returns the text between the clip and the answer; no space at its end."""
        if self.cue is None:
            return query
        turns = [f"Question: {past} {self.cue}{self.history_gap}{answer}\n" for past, answer in history]
        return "".join([*turns, f"Question: {query} {self.cue}"])


TEMPLATES = {
    template.name: template
    for template in (
        Template("chat", cue="Answer:", has_time_indices=True),
        Template("base", cue=None),
        Template("vqa", cue="Short answer:"),
        # what ms-swift 4.6 feeds this model: no time indices, all frames on one position, no space in the history.
        # For adapters that were trained there, and to measure what losing time costs.
        Template("swift", cue="Answer:", history_gap=""),
    )
}
"""Prompt templates by name. Source: the published modelling file for chat, base and vqa; ms-swift 4.6 for swift."""


@dataclass(frozen=True)
class SpecialTokens:
    """The ids that the layout writes itself.

    Args:
        bos: First token of a row.
        eos: Last token of an answer.
        vision: Placeholder under a frame's tokens (the padding id of the published checkpoints).
    """

    bos: int
    eos: int
    vision: int


def special_tokens(config: Mapping[str, Any]) -> SpecialTokens:
    """Reads the ids that the layout writes itself from the values of a config.json."""
    return SpecialTokens(bos=config["bos_token_id"], eos=config["eos_token_id"], vision=config["pad_token_id"])


def time_indices(timestamps_s: Sequence[float], *, sampling: str) -> tuple[int, ...]:
    """Returns the integer that the chat template writes after each chosen frame.

    Args:
        timestamps_s: Start in seconds of each chosen frame, T numbers.
        sampling: Name of the rule that chose them.

    Returns:
        T integers. For `chat` and `base` the number of the frame, 0 to T-1, which for `chat` is also its second. For
        `uniform` its true second, rounded (a half to the even one), so that answers speak of real seconds.

    Source: the published chat template numbers frames, which are seconds only because it samples one per second.
    """
    if sampling == "uniform":
        return tuple(round(second) for second in timestamps_s)
    return tuple(range(len(timestamps_s)))


def check_place(template: Template, *, history: Sequence[tuple[str, str]], system: str | None) -> None:
    """Refuses what the template has no place for: earlier turns, which the published code drops without a word; a system text.

    Raises:
        DataError: without the row's place.
    """
    if system is not None:
        need, hint = "none: the model's templates have no place for one", "write it at the head of the question"
        raise DataError("the row", [Problem("`system`", quote(system, most=40), need, hint)])
    if history and not template.has_history:
        need = f"none: template {quote(template.name)} has no place for it"
        hint = "use model.template=chat, or remove the earlier turns"
        raise DataError("the row", [Problem("`history`", f"{len(history)} turns", need, hint)])


def build_layout(
    encode: Callable[[str], list[int]],
    *,
    template: Template,
    special: SpecialTokens,
    num_tokens_per_frame: int,
    time_indices: Sequence[int],
    query: str,
    history: Sequence[tuple[str, str]] = (),
    response: str | None = None,
) -> Layout:
    """Lays out one row.

    Args:
        encode: Tokenises a piece of text without special tokens.
        template: Prompt template.
        special: BOS, EOS and placeholder ids.
        num_tokens_per_frame: Vision tokens of a frame, boi and eoi included.
        time_indices: One integer per frame of the clip; empty for a text-only row.
        query: The question.
        history: Earlier (question, answer) turns.
        response: The answer, for training; None leaves the row open for generation.

    Returns:
        The row's ids, types and labels.

    Raises:
        DataError: when a text cannot be encoded; who knows the row names it.
        ModelError: when a time index is no single token.
    """
    ids, types = [special.bos], [0]
    for index in time_indices:
        ids += [special.vision] * num_tokens_per_frame
        types += [1] * num_tokens_per_frame
        if template.has_time_indices:
            digits = encode_time_index(encode, index)
            ids += digits
            types += [0] * len(digits)
    num_prefix_tokens = len(ids)
    ids += encode(template.write_prompt(query, history))
    num_prompt_tokens = len(ids)
    if response is not None:
        ids += [*encode(response), special.eos]
    types += [0] * (len(ids) - len(types))
    labels = [IGNORED_LABEL] * num_prompt_tokens + ids[num_prompt_tokens:]
    return Layout(ids, types, labels, num_prefix_tokens)
