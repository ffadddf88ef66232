"""Datasets that a recipe gives by name: files are fetched, or it is said what to bring; and what is worth knowing of them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from cvft.cards import Named
from cvft.data.rows import Row
from cvft.errors import DataError, Problem, quote
from cvft.recipe import Recipe
from cvft.recipe.data_section import is_val
from cvft.weights.hub import UnreachableError, fetch_dataset


def bring_datasets(recipe: Recipe) -> None:
    """Fetches the files of rows that are missing of the recipe's datasets, from where a hub has them.

    Clips are never fetched: they are large, and most have to be asked for elsewhere.

    Args:
        recipe: The recipe.

    Raises:
        DataError: with everything that is missing after that, where it belongs and how it is got.
    """
    problems: list[Problem] = []
    for key, named in recipe.data.named.items():
        card, folder = named.card, recipe.data.datasets_dir / named.card.name
        missing, why = _fetch(named, folder)
        if missing:
            more = f" and {len(missing) - 1} more files" if len(missing) > 1 else ""
            got = f"no {quote(folder / missing[0], most=4096)}{more} of {quote(str(named))}{why}"
            problems.append(Problem(key, got, "the files as their makers publish them", card.how_to_get(folder)))
        roots = {file.video_root for place, file in recipe.data.sources.items() if _is_of(place, key)}
        for root in sorted(root for root in roots if root is not None and not os.path.isdir(root)):
            got = f"no folder {quote(root, most=4096)}, which {quote(str(named))} has its clips in"
            hint = f"{card.get_clips}, under {folder}; or name their folder: data.video_root"
            problems.append(Problem(key, got, "the clips, which are not fetched", hint))
    if problems:
        raise DataError("the datasets", problems)


def note_datasets(recipe: Recipe, read: Mapping[str, Sequence[Row]]) -> list[str]:
    """Says what is worth knowing of the recipe's datasets.

    Args:
        recipe: The recipe.
        read: The rows of each file, by the keys of `Data.sources`.

    Returns:
        Sentences: licences, benchmarks that are trained on, counts that are not those of the card.
    """
    return [
        note
        for key, named in recipe.data.named.items()
        for note in _notes_of(named, [row for place, rows in read.items() if _is_of(place, key) for row in rows], key)
    ]


def _notes_of(named: Named, rows: Sequence[Row], key: str) -> Iterator[str]:
    if named.split.is_benchmark and not is_val(key):
        yield (
            f"{named} is what models are compared on: training on it spoils the benchmark, and numbers of this model on it "
            "say nothing"
        )
    clips = {clip for row in rows for clip in row.videos}
    for count, due, what in ((len(rows), named.split.num_rows, "rows"), (len(clips), named.split.num_clips, "clips")):
        if due is not None and count != due:
            yield f"{named} has {count:,} {what} here, and {due:,} as its makers publish it"


def _missing_files(named: Named, folder: Path) -> list[str]:
    paths = [path for file in named.split.files for path in (file.path, *file.needs)]
    return [path for path in dict.fromkeys(paths) if not (folder / path).is_file()]


def _fetch(named: Named, folder: Path) -> tuple[list[str], str]:
    """Fetches the files that are missing, from one hub after the other; returns what is missing then, and why."""
    missing, why = _missing_files(named, folder), []
    for address in named.card.addresses:
        if not missing:
            break
        try:
            fetch_dataset(address, missing, folder)
            missing = _missing_files(named, folder)
            why.append(f", nor does {address} have it")
        except UnreachableError as error:
            (problem,) = error.problems
            why.append(f", and it cannot be fetched from {address} ({problem.got})")
    return missing, "".join(why)


def _is_of(place: str, key: str) -> bool:
    """Tells whether a key of `Data.sources` is that of a dataset, or of one of its files."""
    return place == key or place.startswith(f"{key} (")
