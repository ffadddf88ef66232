"""Tags of other trainers that stand for a clip inside a question, such as `<video>`: taken out, or refused.

Clips always come before the text here, in their order, so such a tag has nothing to say; left in, it would be read and trained on
as text. Of several clips, tags that stand elsewhere would say which is meant where: they are refused.
Questions are looked at, of earlier turns too. An answer is what the model shall say, and stays to the letter.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from cvft.errors import Problem, quote

_VIDEO_TAG = re.compile(
    r"""
      \(<video>\./</video>\)
    | <\|begin_of_video\|><\|video\|><\|end_of_video\|>
    | <\|vision_start\|><\|video_pad\|><\|vision_end\|>
    | <\|video\|> | <\|video_pad\|>
    | <video>(?!.*</video>)
    """,
    re.VERBOSE | re.DOTALL,
)
"""Tags for a video. A `<video>` with its end is HTML, or a path inside tags, and no tag of this kind.

Source: ms-swift and LLaMA-Factory (`<video>`); the chat templates of MiniCPM-V, GLM-4.1V, Qwen2-VL and Gemma 3n.
"""

_OTHER_TAG = re.compile(
    r"""
      \(<(?:image|audio)>\./</(?:image|audio)>\)
    | <(?:image|audio)>(?!.*</(?:image|audio)>)
    | <\|(?:image|audio|image_pad|audio_pad)\|>
    """,
    re.VERBOSE | re.DOTALL,
)
"""Tags for what a row with a clip, or with text alone, cannot have: an image, a sound."""

_IMAGE_TAG = re.compile(
    r"""
      \(<image>\./</image>\)
    | <\|begin_of_image\|><\|image\|><\|end_of_image\|>
    | <\|vision_start\|><\|image_pad\|><\|vision_end\|>
    | <\|image\|> | <\|image_pad\|>
    | <image>(?!.*</image>)
    """,
    re.VERBOSE | re.DOTALL,
)
"""Tags for the image of a row that has one in place of a clip. Source: as above."""

Media = Literal["none", "video", "image"]
"""What a row shows."""

_NO_IMAGE_TAG = re.compile(
    rf"{_VIDEO_TAG.pattern} | <audio>(?!.*</audio>) | <\|audio(?:_pad)?\|>", re.VERBOSE | re.DOTALL
)
"""Tags for what a row with an image cannot have."""

CONTROL_TOKEN = re.compile(r"<\|[^|<>\s]+\|>")
"""What looks like a token that steers a model; here it is plain text. Source: the vocabularies of Llama 3, Qwen2 and GLM-4."""

_VIDEO_ELEMENT = re.compile(r"<video>.*</video>", re.DOTALL)

HINT_SEVERAL = (
    "clips always come before the text, in their order: write no tags, or one for each clip at the head of the first question; "
    "say in other words which is meant, such as `the first clip`"
)
HINT = "a clip always comes before the text: write no tag, or one `<video>` for the one clip; in other words where it is meant"


def find_tag(text: str) -> str | None:
    """Returns the first tag for a clip, an image or a sound in a text, or None.

    Example:
        >>> find_tag("<image> shows a dog")
        '<image>'
    """
    found = _VIDEO_TAG.search(text) or _OTHER_TAG.search(text)
    return None if found is None else found[0]


def without_usual_tag(text: str) -> str | None:
    r"""Returns a question of a clip without the one tag that most files have: `<video>` at its head, and no other `<`.

    Returns:
        What `without_tags` says; None where the tag does not stand so, and all rules have to be asked.

    Example:
        >>> without_usual_tag("<video>\nWhat is shown?"), without_usual_tag("Is 1 < 2?")
        ('What is shown?', None)
    """
    is_usual = text.startswith("<video>") and text.count("<") == 1
    return text[len("<video>") :].lstrip() if is_usual else None


def without_tags(text: str, *, media: Media = "video") -> str:
    r"""Returns a question without the tags for its clip or picture, and without the white space that stood around them.

    Args:
        text: A question.
        media: What its row shows.

    Example:
        >>> without_tags("<video>\nWhat is shown?")
        'What is shown?'
        >>> without_tags("What is shown in <video>?")
        'What is shown in?'
        >>> without_tags("Look at <video> and tell me more.")
        'Look at and tell me more.'
        >>> without_tags("What does <video src=a.mp4> do?")
        'What does <video src=a.mp4> do?'
        >>> without_tags("<image>What is shown?", media="image")
        'What is shown?'
    """
    if "<" not in text:  # as in all tags
        return text
    parts = (_IMAGE_TAG if media == "image" else _VIDEO_TAG).split(text)
    whole = parts[0]
    for part in parts[1:]:
        before, after = whole.rstrip(), part.lstrip()
        gap = whole[len(before) :] + part[: len(part) - len(after)]
        parts_words = before and after and (part[:1].isspace() or (after[0].isalnum() and _parts(gap, before, after)))
        whole = before + (("\n" if "\n" in gap else " ") if parts_words else "") + after
    return whole


def _parts(gap: str, before: str, after: str) -> bool:
    """Tells whether two words would become one: not in scripts that are written without spaces."""
    return bool(gap) or (before[-1].isascii() and before[-1].isalnum() and after[0].isascii())


def find_tag_problem(
    query: str, history: Sequence[tuple[str, str]], *, media: Media, num_clips: int, location: str
) -> Problem | None:
    """Returns what is wrong with the tags of a row: more than it has clips or pictures, or some for what it does not show.

    Args:
        query: The question.
        history: Earlier (question, answer) turns.
        media: What the row shows.
        num_clips: How many clips or pictures.
        location: How to name the row.
    """
    own, others = (_IMAGE_TAG, _NO_IMAGE_TAG) if media == "image" else (_VIDEO_TAG, _OTHER_TAG)
    columns = [("query", query)]
    if history:
        columns = [*(("history", question) for question, _ in history), *columns]
    num_tags = 0
    for column, text in columns:
        if "<" not in text:  # as in all tags
            continue
        where = f"{location} {quote(column)}"
        other = others.search(text)
        if other is not None:
            return Problem(where, f"{quote(other[0])} in a question", "no tag for what the row does not show", HINT)
        if media == "video" and _VIDEO_ELEMENT.search(_VIDEO_TAG.sub("", text)):
            need = "text alone, and the path of the clip in `videos`"
            return Problem(where, "something between `<video>` and `</video>`", need, HINT)
        num_tags += len(own.findall(text))
        if num_clips > 1:
            continue
        if num_tags > num_clips:
            got = f"{num_tags} tag{'s' if num_tags > 1 else ''} such as {quote(own.findall(text)[-1])}"
            clips = "the row has no clip" if num_clips == 0 else "one for each clip of the row"
            return Problem(where, got, f"at most {num_clips}: {clips}", HINT)
    if num_clips > 1 and num_tags:
        head = _count_leading(own, columns[0][1])
        if (head, num_tags) != (num_clips, num_clips):
            got = f"{num_tags} tag{'s' if num_tags > 1 else ''}, {head} of them at the head"
            need = f"{num_clips} at the head of the first question, one for each clip of the row, or none"
            return Problem(f"{location} {quote(columns[0][0])}", got, need, HINT_SEVERAL)
    return None


def _count_leading(tag: re.Pattern[str], text: str) -> int:
    """Counts the tags with which a text begins, white space aside."""
    count = 0
    while (found := tag.match(text := text.lstrip())) is not None:
        count, text = count + 1, text[found.end() :]
    return count
