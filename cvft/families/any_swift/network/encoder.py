"""Rows become inputs through ms-swift's template: its ids, labels and pixels, of frames that cvft decoded.

Row + frames (T, H, W, 3) -> messages + images -> template -> input_ids (L), labels (L), pixels -> batch (B, L)
Row + features of a clip of so many frames of one size     -> template -> input_ids (L), labels (L), features
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cvft.data.rows import Row
from cvft.data.video.decode import Clip
from cvft.errors import DataError, Problem, quote
from cvft.families.any_swift.inputs import NO_IMAGES
from cvft.families.any_swift.network.template import OpenTemplate
from cvft.families.family import IGNORED_LABEL, Layout, naming, only_clip
from cvft.families.network.batching import collate_sequences
from cvft.families.network.grouping import CLIP_KEYS, group_rows
from cvft.families.runtime import ClipTensors, ShownFrames

FRAMES, FEATURES = "frames", "vision_features"
"""Names of a clip's decoded frames, uint8 (T, H, W, 3), which stay in memory until its row is encoded, and of its features."""

PLAIN = "What?"
"""A question that no template stumbles over: others are compared with it."""

MAX_SIZES = 1024
"""Sizes of clips of which is kept what depends on nothing else."""


class RowEncoder:
    """Turns rows into inputs; see `cvft.families.runtime.Encoder`.

    Args:
        template: ms-swift's template, opened for the folder.
        system: System prompt; an empty one stands for none.
        max_tokens: Most tokens of a prompt and its answer together.
    """

    pads_questions = True
    """No layer is recurrent."""
    takes_images = False

    def __init__(self, template: OpenTemplate, *, system: str, max_tokens: int) -> None:
        self.template = template
        self.tokenizer = template.tokenizer
        self.max_tokens = max_tokens
        self._system = system
        self._prefixes: dict[tuple[object, ...], list[int]] = {}

    @property
    def padding_id(self) -> int:
        """Id that fills up a batch."""
        return int(self.tokenizer.pad_token_id)

    def clip(self, clip: ShownFrames) -> dict[str, Tensor]:
        """Keeps the frames as they are: the template makes pixels of them together with each row's text."""
        return {FRAMES: torch.from_numpy(clip.frames)}

    def frames_to_keep(self, clip: Clip) -> np.ndarray:
        """Returns the frames as they are: what becomes of them is the template's."""
        return clip.frames

    def encode(self, row: Row, clips: Sequence[ClipTensors], *, with_response: bool) -> dict[str, Tensor]:
        """Encodes one row as a prompt, or with its answer."""
        with naming(row):
            clip = only_clip(row, clips, no_images=NO_IMAGES)
            frames, is_cached = (
                None if clip is None else _frames_of(clip),
                clip is not None and FEATURES in clip.tensors,
            )
            response = row.response if with_response else None
            encoded = self._encode(row, frames, response=response, sizes_only=is_cached)
        length = len(encoded["input_ids"])
        labels = encoded.get("labels") or [IGNORED_LABEL] * length
        return {
            "input_ids": torch.tensor(encoded["input_ids"]),
            "labels": torch.tensor(labels),
            "position_ids": torch.arange(length),
            "segment_ids": torch.zeros(length, dtype=torch.long),  # cut where rows are joined, and nowhere else
            **(clip.tensors if clip is not None and is_cached else clip_tensors(encoded)),
        }

    def lay_out(self, row: Row, clip: Clip | None) -> Layout:
        """Lays out a row with its answer, from frames whose size alone counts."""
        frames = None if clip is None else torch.from_numpy(clip.frames)
        encoded = self._encode(row, frames, response=row.response, sizes_only=True)
        ids: list[int] = encoded["input_ids"]
        types = [int(each == self.template.image_id) for each in ids]
        return Layout(ids, types, encoded["labels"], count_prefix(types))

    def join(self, rows: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Joins rows of one clip to a sequence that holds the clip once, where that was proven; a single row stays as it is."""
        if len(rows) == 1:
            return dict(rows[0])
        return group_rows([self._cut(row) for row in rows])

    def _cut(self, row: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns a row cut where what is shared ends: behind the last token of its clip."""
        length = self._count_prefix(row["input_ids"].tolist())
        return {**row, "segment_ids": (row["position_ids"] >= length).long()}

    def collate(
        self, sequences: Sequence[Mapping[str, Tensor]], *, padding_side: Literal["left", "right"] = "right"
    ) -> dict[str, Any]:
        """Pads sequences to one batch, and the pixels of smaller clips to the size of the largest one beside them."""
        padded = pad_clips(sequences)
        return collate_sequences(padded, padding_side=padding_side, padding_id=self.padding_id, clip_dims={})

    def model_inputs(self, batch: Mapping[str, Tensor]) -> dict[str, Any]:
        """Returns what of a batch transformers' own forward takes."""
        return {key: value for key, value in batch.items() if key not in ("labels", "segment_ids", "group_lengths")}

    def pixels(self, frames: Tensor) -> dict[str, Tensor]:
        """Returns the pixels of frames (T, H, W, 3), by the model's names, as every row about them has them."""
        return clip_tensors(self.template.encode([("", None)], frames))

    def nothing(self) -> dict[str, Tensor]:
        """Returns the pixels of one small black frame, by the model's names."""
        return self.pixels(torch.zeros(1, 32, 32, 3, dtype=torch.uint8))

    def _encode(self, row: Row, frames: Tensor | None, *, response: str | None, sizes_only: bool) -> Mapping[str, Any]:
        turns: list[tuple[str, str | None]] = [*row.history, (row.query, response)]
        system = row.system or self._system
        if row.system is not None and not self.template.takes_system:
            need, hint = "none: ms-swift's template has no place for one", "write it at the head of the question"
            raise DataError("the row", [Problem("`system`", quote(row.system, most=40), need, hint)])
        self._check_texts([system, *(text for turn in turns for text in turn if text is not None)])
        encoded = self.template.encode(turns, frames, system=system, sizes_only=sizes_only)
        if frames is not None:
            self._check_clip(encoded["input_ids"], frames, system=system)
        return encoded

    def _check_clip(self, ids: Sequence[int], frames: Tensor, *, system: str) -> None:
        """Refuses a row whose text has cost its clip some tokens: what a clip becomes must not depend on the question."""
        size = (*frames.shape, system)
        if size not in self._prefixes:
            if len(self._prefixes) >= MAX_SIZES:
                self._prefixes.clear()
            plain = self.template.encode([(PLAIN, None)], frames, system=system, sizes_only=True)["input_ids"]
            self._prefixes[size] = plain[: self._count_prefix(plain)]
        wanted, got = self._prefixes[size], self._count_prefix(ids)
        if list(ids[:got]) != wanted:
            said = f"one that makes {got} tokens of what goes up to the clip's end"
            need = f"the {len(wanted)} that ms-swift's template makes for other texts"
            hint = "it stumbles over a question that begins with a line break, for one: write it otherwise"
            raise DataError("the text", [Problem("the text", said, need, hint)])

    def _count_prefix(self, ids: Sequence[int]) -> int:
        return count_prefix([each == self.template.image_id for each in ids])

    def _check_texts(self, texts: Sequence[str]) -> None:
        """Refuses texts in which ms-swift would read more than their characters."""
        for text in texts:
            for word in self.template.reserved:
                if word in text:
                    need = "text without it: ms-swift's template would read it as a token of control"
                    raise DataError("the text", [Problem("the text", quote(word), need, "write it otherwise")])


def _frames_of(clip: ClipTensors) -> Tensor:
    """Returns a clip's frames; blank ones of their size where its features are cached, from which ids follow as well."""
    if FRAMES in clip.tensors:
        return clip.tensors[FRAMES]
    view = clip.view
    return torch.zeros((), dtype=torch.uint8).expand(len(view.timestamps_s), view.height_px, view.width_px, 3)


def clip_tensors(encoded: Mapping[str, Any]) -> dict[str, Tensor]:
    """Takes what belongs to the clip out of a row; copies, as ms-swift makes tensors that no training can go through."""
    found = {key: value for key, value in encoded.items() if isinstance(value, Tensor | list) and key in CLIP_KEYS}
    return {key: torch.as_tensor(value).clone() for key, value in found.items()}


def count_prefix(types: Sequence[int]) -> int:
    """Counts the tokens up to the last one of the clip; those of a row without a clip are the first one alone."""
    return next((number + 1 for number in reversed(range(len(types))) if types[number]), 1)


def pad_clips(sequences: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:
    """Fills pixels up with zeros, in all dimensions but the first, so that those of all clips can be one tensor.

    transformers' own models leave out what is filled up: they count by the sizes of the images, or skip images of zeros.

    Args:
        sequences: Rows, each with the tensors of its clip.
    """
    padded = [dict(sequence) for sequence in sequences]
    for key in CLIP_KEYS:
        having = [sequence for sequence in padded if key in sequence]
        if len({sequence[key].shape[1:] for sequence in having}) <= 1:
            continue
        largest = [max(sizes) for sizes in zip(*(sequence[key].shape[1:] for sequence in having), strict=True)]
        for sequence in having:
            missing = [most - size for most, size in zip(largest, sequence[key].shape[1:], strict=True)]
            fill = [number for each in reversed(missing) for number in (0, each)]
            sequence[key] = F.pad(sequence[key], fill)
    return padded
