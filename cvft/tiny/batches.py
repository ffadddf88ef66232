"""Training batches of the tiny model: scenes -> one packed row per clip.

scenes, questions -> input_ids, token_type_ids, position_ids (B, L), mask (1, 1, L, L), labels as flat places

B clips of one length, L tokens. A row is the clip as the architecture writes it, then K blocks of one question with its
answer. Every block sees the clip and itself only and its positions restart after the clip, so each is computed exactly as in
a row of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from cvft.tiny.architecture import ClipPrefix, Writing
from cvft.tiny.questions import BASE_CATEGORIES, ask_some
from cvft.tiny.world import COLOURS, MAX_SECONDS, SHAPES, Scene


@dataclass(frozen=True)
class PackedBatch:
    """B clips with their questions.

    Args:
        input_ids: (B, L).
        token_type_ids: (B, L), 1 for vision tokens.
        position_ids: (B, L) or (B, L, 3).
        mask: (1, 1, L, L) additive.
        label_places: (N,) places in the flattened (B * L) row-token grid whose output predicts a label.
        label_ids: (N,) the tokens to predict there.
        label_block: (N,) number of the question-answer block (0..B * K - 1) a label belongs to.
        categories: Category of each block, "" for an empty one.
        step_places: (S,) places in a row that tell what each step of the clip shows.
        topic_places: (Q,) places in the flattened grid where it is known what is to be looked up: the last token of each
            question, and within an answer the tokens before a second.
        topics: (Q, 4) what is to be looked up there, see `question_topic`.
    """

    input_ids: Tensor
    token_type_ids: Tensor
    position_ids: Tensor
    mask: Tensor
    label_places: Tensor
    label_ids: Tensor
    label_block: Tensor
    categories: list[str]
    step_places: Tensor
    topic_places: Tensor
    topics: Tensor


TOPIC_SIZES: tuple[int, ...] = (len(BASE_CATEGORIES), len(SHAPES) + 1, len(COLOURS) + 1, MAX_SECONDS + 1)
"""Number of classes of each column of `question_topic`."""


def question_topic(category: str, question: str) -> list[int]:
    """Returns the category, shape, colour and second that a question names, as class numbers; 0 for "none named"."""
    words = question.rstrip("?").split()
    shape = next((i for i, name in enumerate(SHAPES, 1) if name in words), 0)
    colour = next((i for i, name in enumerate(COLOURS, 1) if name in words), 0)
    second = int(words[-1]) + 1 if words[-1].isdigit() else 0
    return [BASE_CATEGORIES.index(category), shape, colour, second]


EVENT_CATEGORY = {"appears": "appear", "disappears": "disappear", "turns": "change"}


def answer_topics(
    category: str, question: str, answer: str, *, second_places: list[int]
) -> list[tuple[int, list[int]]]:
    """Tells what is to be looked up within an answer that names seconds.

    Args:
        category: Category of the question.
        question: Its text.
        answer: Its answer: "at 2 then 5" or "red circle appears at 3"; categories of other answers give nothing.
        second_places: Tokens of the answer that are seconds.

    Returns:
        (token of the answer, topic) for the two tokens before each second: the word and the space.
    """
    if category == "first_and_last":
        events = ("appear", "disappear") if "disappear" in question else ("first_seen", "last_seen")
        topics = [question_topic(name, question) for name in events]
    elif category == "event_order":
        colour, shape, verb = answer.split()[:3]
        topics = [question_topic(EVENT_CATEGORY[verb], f"{colour} {shape}")]
    else:
        return []
    return [
        (place - back, topic)
        for place, topic in zip(second_places, topics, strict=True)
        for back in (2, 1)
        if place >= back
    ]


@dataclass
class Packer:
    """Turns scenes into packed batches.

    Args:
        writing: How the architecture writes them.
        num_questions: Question-answer blocks per clip.
    """

    writing: Writing
    num_questions: int
    _encoded: dict[str, list[int]] = field(default_factory=dict)
    _prompts: dict[str, list[int]] = field(default_factory=dict)
    _prefixes: dict[int, ClipPrefix] = field(default_factory=dict)
    _masks: dict[int, Tensor] = field(default_factory=dict)

    def encode(self, text: str) -> list[int]:
        """Returns the token ids of a text, without special tokens."""
        if text not in self._encoded:
            self._encoded[text] = self.writing.tokenizer.encode(text, add_special_tokens=False)
        return self._encoded[text]

    def prompt(self, question: str) -> list[int]:
        """Returns the token ids of a question, up to where its answer begins."""
        if question not in self._prompts:
            self._prompts[question] = self.writing.prompt(question)
        return self._prompts[question]

    def prefix(self, num_seconds: int) -> ClipPrefix:
        """Returns how a clip of a length is written."""
        if num_seconds not in self._prefixes:
            self._prefixes[num_seconds] = self.writing.prefix(num_seconds)
        return self._prefixes[num_seconds]

    def _mask(self, num_prefix: int) -> Tensor:
        if num_prefix not in self._masks:
            num_tokens = num_prefix + self.num_questions * self.writing.block_tokens
            block = torch.full((num_tokens,), -1)
            block[num_prefix:] = torch.arange(self.num_questions).repeat_interleave(self.writing.block_tokens)
            same = (block[None, :] == -1) | (block[:, None] == block[None, :])
            allowed = same & torch.ones(num_tokens, num_tokens, dtype=torch.bool).tril()
            mask = torch.zeros(num_tokens, num_tokens).masked_fill(~allowed, torch.finfo(torch.float32).min)
            self._masks[num_prefix] = mask[None, None]
        return self._masks[num_prefix]

    def pack(self, scenes: Sequence[Scene], *, rng: np.random.Generator, weights: dict[str, float]) -> PackedBatch:
        """Asks every scene and lays the rows out.

        Args:
            scenes: B scenes of one length.
            rng: Source of chance for the questions.
            weights: Share of each category, as `ask_some` takes it.

        Returns:
            The batch.
        """
        block_tokens = self.writing.block_tokens
        second_ids = {self.encode(str(second))[0] for second in range(MAX_SECONDS + 1)}
        prefix = self.prefix(scenes[0].num_seconds)
        num_prefix, num_blocks_tokens = len(prefix.ids), self.num_questions * block_tokens
        num_tokens = num_prefix + num_blocks_tokens
        ids = np.full((len(scenes), num_tokens), self.writing.fill_id, dtype=np.int64)
        ids[:, :num_prefix] = prefix.ids
        places: list[int] = []
        labels: list[int] = []
        blocks: list[int] = []
        categories: list[str] = []
        topic_places: list[int] = []
        topics: list[list[int]] = []
        for row, scene in enumerate(scenes):
            asked = ask_some(scene, rng=rng, num_questions=self.num_questions, weights=weights)
            categories += [category for category, _, _ in asked] + [""] * (self.num_questions - len(asked))
            for slot, (category, question, answer) in enumerate(asked):
                question_ids = self.prompt(question)
                answer_ids = [*self.encode(answer), self.writing.stop_id]
                start = num_prefix + slot * block_tokens
                first_label = start + len(question_ids)
                end = first_label + len(answer_ids)
                assert end <= start + block_tokens, f"{question} {answer} needs {end - start} tokens"
                ids[row, start:end] = question_ids + answer_ids
                places += range(row * num_tokens + first_label - 1, row * num_tokens + end - 1)
                labels += answer_ids
                topic_places.append(row * num_tokens + first_label - 1)
                topics.append(question_topic(category, question))
                seconds = [place for place, token in enumerate(answer_ids) if token in second_ids]
                for offset, topic in answer_topics(category, question, answer, second_places=seconds):
                    topic_places.append(row * num_tokens + first_label + offset)
                    topics.append(topic)
                blocks += [row * self.num_questions + slot] * len(answer_ids)
        row_types = torch.tensor([*prefix.types, *[0] * num_blocks_tokens])
        # the last token of a prefix is text, whose coordinates are all one
        block = int(prefix.positions[-1].max()) + 1 + torch.arange(block_tokens).repeat(self.num_questions)
        if prefix.positions.dim() == 2:
            block = block[:, None].expand(-1, prefix.positions.shape[1])
        positions = torch.cat((prefix.positions, block))
        return PackedBatch(
            input_ids=torch.from_numpy(ids),
            token_type_ids=row_types.expand(len(scenes), -1),
            position_ids=positions.expand(len(scenes), *positions.shape),
            mask=self._mask(num_prefix),
            label_places=torch.tensor(places),
            label_ids=torch.tensor(labels),
            label_block=torch.tensor(blocks),
            categories=categories,
            step_places=torch.tensor(prefix.step_places),
            topic_places=torch.tensor(topic_places),
            topics=torch.tensor(topics),
        )


def frame_targets(cells: np.ndarray, *, num_kinds: int) -> Tensor:
    """Tells for each step of a clip what is there, what is new and what is gone.

    Args:
        cells: (B, S, 4) of `world.scene_cells`, at the second that each step shows.
        num_kinds: Number of colour and shape pairs.

    Returns:
        float32 (B, S, 3 * num_kinds) of zeros and ones: present, appeared, vanished since the step before.
    """
    present = torch.zeros(*cells.shape[:2], num_kinds + 1).scatter_(2, torch.from_numpy(cells), 1.0)[..., 1:]
    before = torch.cat((present[:, :1], present[:, :-1]), dim=1)
    return torch.cat((present, (present - before).clamp(min=0), (before - present).clamp(min=0)), dim=2)
