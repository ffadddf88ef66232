"""Datasets that recipes name: what each card in `datasets/` says, and which files a name stands for. No torch, no network.

`data.train: next-qa`, `data.val: next-qa:test` -> card, split -> the files of rows under `ROOT/next-qa`, each with its format
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

_FOLDER = Path(__file__).parent / "datasets"

CARDS: Mapping[str, Path] = {path.parent.name: path for path in sorted(_FOLDER.glob("*/card.yaml"))}
"""Name of a dataset -> its card."""


@dataclass(frozen=True)
class CardFile:
    """A file of rows of a dataset.

    Args:
        path: Where it lies in the dataset's folder.
        format: How its rows are written, as `data.format` says it.
        clips: Folder in the dataset's folder that the clips of its rows are named from; None: the file's own.
        needs: Other files that its rows cannot be read without.
    """

    path: str
    format: str
    clips: str | None = None
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Split:
    """A part of a dataset.

    Args:
        files: Its files of rows.
        num_rows: Rows that it has when it is whole; None where its makers do not say.
        num_clips: Clips of those rows, likewise.
        is_benchmark: Whether models are compared on it: who trains on it spoils that.
    """

    files: tuple[CardFile, ...]
    num_rows: int | None = None
    num_clips: int | None = None
    is_benchmark: bool = False


@dataclass(frozen=True)
class Card:
    """A dataset.

    Args:
        name: What a recipe says.
        summary: What it is, in a line.
        source: Where its makers publish it.
        licence: Under which terms, as they say.
        get: How its files of rows come into its folder.
        get_clips: How its clips do.
        hugging_face: Its name on Hugging Face, where its files of rows can be fetched from; None where they cannot.
        modelscope: Its name on ModelScope, likewise.
        splits: Its parts by their names.
    """

    name: str
    summary: str
    source: str
    licence: str
    get: str
    get_clips: str
    hugging_face: str | None = None
    modelscope: str | None = None
    splits: Mapping[str, Split] = field(default_factory=dict)

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where its files of rows can be fetched from: `hf:OWNER/NAME`, `ms:OWNER/NAME`, in the order in which they are asked."""
        named = {"hf": self.hugging_face, "ms": self.modelscope}
        return tuple(f"{hub}:{name}" for hub, name in named.items() if name is not None)

    def how_to_get(self, folder: Path) -> str:
        """Says how its files of rows come into a folder."""
        return self.get.replace("FOLDER", str(folder))

    def default_split(self, *, is_held_out: bool) -> str:
        """Returns the split that is meant where none is named: one to evaluate on for `data.val`, else one to train on."""
        wanted = ("val", "test") if is_held_out else ("train",)
        return next((name for name in wanted if name in self.splits), next(iter(self.splits)))


@dataclass(frozen=True)
class Named:
    """What the name of a dataset in a recipe stands for.

    Args:
        card: The dataset.
        split_name: The part of it.
    """

    card: Card
    split_name: str

    @property
    def split(self) -> Split:
        """The part of the dataset."""
        return self.card.splits[self.split_name]

    def __str__(self) -> str:
        return f"{self.card.name}:{self.split_name}"


def names_dataset(text: str) -> bool:
    """Tells whether a text is the name of a dataset, with a split or without; the split may be none that it has."""
    return text.partition(":")[0] in CARDS


def find_named(text: str, *, is_held_out: bool) -> Named | None:
    """Finds what a name stands for.

    Args:
        text: What a recipe says: a path, or a name.
        is_held_out: Whether `data.val` says it.

    Returns:
        The part of a dataset; None for what names none, or a part that there is not.
    """
    name, colon, split = text.partition(":")
    if name not in CARDS:
        return None
    card = read_card(name)
    split = split if colon else card.default_split(is_held_out=is_held_out)
    return Named(card, split) if split in card.splits else None


@functools.cache
def read_card(name: str) -> Card:
    """Reads a card of the package.

    Args:
        name: One of `CARDS`.
    """
    values: dict[str, Any] = yaml.safe_load(CARDS[name].read_text(encoding="utf-8"))
    values["splits"] = _read_splits(values["splits"], clips=values.pop("clips", None))
    return Card(name=name, **values)


def _read_splits(splits: Mapping[str, Any], *, clips: str | None) -> dict[str, Split]:
    read: dict[str, Split] = {}
    for name, values in splits.items():
        files = tuple(
            CardFile(each["path"], each["format"], values.get("clips", clips), needs=tuple(each.get("needs", ())))
            for each in values.get("files", ())
        )
        for part in values.get("of", ()):  # parts that stand before it
            files += read[part].files
        read[name] = Split(files, values.get("rows"), values.get("clips_total"), values.get("benchmark", False))
    return read


def describe_cards(root: Path) -> str:
    """Lists the datasets for a terminal, with what of them is there.

    Args:
        root: Folder of the datasets.
    """
    lines = []
    for name in CARDS:
        card, folder = read_card(name), root / name
        lines += [f"{name}: {card.summary}", f"  {card.source}; {card.licence}"]
        for split_name, split in card.splits.items():
            here = sum((folder / file.path).is_file() for file in split.files)
            counts = [f"{n:,} {what}" for n, what in ((split.num_rows, "rows"), (split.num_clips, "clips")) if n]
            marks = ["benchmark: not to train on"] if split.is_benchmark else []
            files = f"{here} of {len(split.files)} files in {folder}"
            lines.append(f"  {name}:{split_name}  {', '.join([*counts, *marks, files])}")
        lines += [f"  rows:  {card.how_to_get(folder)}", f"  clips: {card.get_clips}", ""]
    return "\n".join(lines).rstrip()
