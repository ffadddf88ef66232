"""The weight files of a model folder as files: their headers, what lies where, and whether all of it is there. No torch.

folder -> `Shard`s with their `Entry`s, compared with the index and config.json -> bytes of a tensor, without loading a file
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cvft.errors import ModelError, Problem, quote
from cvft.json_files import OBJECT, JsonError, Need, check_object, read_object
from cvft.weights.header import Entry, ShortFileError, read_header


def _is_shard_name(value: Any) -> bool:
    return isinstance(value, str) and value.endswith(".safetensors") and not set(value) & set("/\\\0")


INDEX_FILE = "model.safetensors.index.json"
"""Says which tensor lies in which file. Source: the published folders."""

INDEX_NEEDS = {
    "weight_map": Need(
        "an object, from tensors to names of *.safetensors files of this folder",
        lambda value: isinstance(value, dict) and all(map(_is_shard_name, value.values())),
    ),
    "metadata": OBJECT,
}

NUM_NAMED = 3

INCOMPLETE = "is the download complete? Get the file again"


@dataclass(frozen=True)
class Shard:
    """A weight file.

    Args:
        path: The file.
        entries: Its tensors, in the order of their bytes.
        metadata: Free text of the header.
    """

    path: Path
    entries: Sequence[Entry]
    metadata: Mapping[str, str]

    @property
    def num_bytes(self) -> int:
        """Bytes of its tensors."""
        return sum(entry.num_bytes for entry in self.entries)


def weight_files(folder: Path) -> list[Path]:
    """Returns a folder's safetensors files in name order.

    Raises:
        ModelError: when there is none, or one of them is no file.
    """
    files = sorted(folder.glob("*.safetensors"))
    if odd := [path for path in files if not path.is_file()]:  # a pipe that was opened may never end
        got = "a link to nothing" if odd[0].is_symlink() and not odd[0].exists() else "a folder, a device or a pipe"
        raise ModelError(f"model {folder}", [Problem(odd[0].name, got, "a safetensors file", INCOMPLETE)])
    if not files:
        hint = "is the download complete? Only safetensors are read, never pickles"
        raise ModelError(f"model {folder}", [Problem("weights", "no *.safetensors file", "the model's weights", hint)])
    return files


def read_shard(path: Path) -> Shard:
    """Reads a weight file's header and compares it with the file's size.

    Raises:
        ModelError: when the header is broken, leaves bytes unaccounted for, or promises more than the file holds.
    """

    def broken(got: str, need: str) -> ModelError:
        return ModelError(f"model {path.parent}", [Problem(path.name, got, need, INCOMPLETE)])

    try:
        header = read_header(path)
    except ShortFileError as error:
        raise broken(f"{error.num_bytes} bytes", "a safetensors file; its header alone would be longer") from error
    except OSError as error:
        raise broken(error.strerror or str(error), "a file that can be read") from error
    except ValueError as error:
        raise broken(f"a broken header ({error})", "a safetensors file") from error
    if gap := header.find_gap():
        raise broken(f"{quote(gap[0].name)} at byte {gap[0].begin}", f"it at {gap[1]}, where the one before ends")
    if header.end != header.num_file_bytes:
        raise broken(f"{header.num_file_bytes} bytes", f"{header.end} bytes, as its header says")
    return Shard(path, header.entries, header.metadata)


def read_shards(
    folder: Path,
    need: Mapping[str, tuple[int, ...]] | None,
    *,
    module_of: Callable[[str], str | None] = lambda name: name,
) -> list[Shard]:
    """Reads the headers of a folder's weight files and proves that together they are exactly the model.

    Args:
        folder: Model folder.
        need: What they must hold, name -> shape; None believes the headers and the index.
        module_of: What the model calls a tensor of the files, so that files may name it as `need` does or in another way that the
            model takes for the same; None for one that it never loads, for which headers and index are believed.

    Returns:
        The files in name order.

    Raises:
        ModelError: with all problems: files that are missing, damaged or belong to nothing, tensors that are missing,
            unknown, double, misplaced or of another shape.
    """
    problems: list[Problem] = []
    shards = []
    for path in weight_files(folder):
        try:
            shards.append(read_shard(path))
        except ModelError as error:
            problems += error.problems
    listed = None
    try:
        listed = read_weight_map(folder)
    except ModelError as error:
        problems += error.problems
    present = {path.name for path in weight_files(folder)}
    if listed is not None:
        problems += [
            Problem(name, "no such file", f"the shard that {INDEX_FILE} lists", INCOMPLETE)
            for name in sorted(set(listed.values()) - present)
        ]
        problems += [
            Problem(
                name, "a weight file that belongs to nothing", f"only the shards that {INDEX_FILE} lists", "remove it"
            )
            for name in sorted(present - set(listed.values()))
        ]
    elif len(present) > 1 and not os.path.lexists(folder / INDEX_FILE):
        problems.append(Problem(INDEX_FILE, "no such file", f"it beside {len(present)} weight files", INCOMPLETE))
    if not problems:  # tensors of a damaged or missing file would all be reported again as missing
        held = _shapes_of(shards)
        wanted = held if need is None else _spell(need, dict.fromkeys((*held, *(listed or ()))), held, module_of)
        problems += _check_tensors(shards, listed, wanted)
    if problems:
        raise ModelError(f"model {folder}", problems)
    return shards


def read_weight_map(folder: Path) -> dict[str, str] | None:
    """Reads which file each tensor lies in.

    Args:
        folder: Model folder.

    Returns:
        Tensor -> file name, or None where a folder has no index.

    Raises:
        ModelError: when the index is broken, or names files outside the folder.
    """
    path = folder / INDEX_FILE
    if not os.path.lexists(path):
        return None
    try:
        index = read_object(path)
    except JsonError as error:
        problem = Problem(INDEX_FILE, str(error), "`weight_map`, from tensors to files", INCOMPLETE)
        raise ModelError(f"model {folder}", [problem]) from error
    problems = check_object(index, INDEX_NEEDS, where=INDEX_FILE, optional=("metadata",), hint=INCOMPLETE)
    if problems:
        raise ModelError(f"model {folder}", problems)
    return dict(index["weight_map"])


def _spell(
    need: Mapping[str, tuple[int, ...]],
    names: Iterable[str],
    held: Mapping[str, tuple[int, ...]],
    module_of: Callable[[str], str | None],
) -> dict[str, tuple[int, ...]]:
    """Returns what files must hold by the names that they use, with what the model leaves out as they hold it."""
    stated = {module_of(name): name for name in need}
    wanted = dict(need)
    for name in names:
        module = module_of(name)
        if module is None:
            wanted[name] = held.get(name, ())
        elif name not in need and stated.get(module) in wanted:
            wanted[name] = wanted.pop(stated[module])
    return wanted


def _shapes_of(shards: Sequence[Shard]) -> dict[str, tuple[int, ...]]:
    return {entry.name: entry.shape for shard in shards for entry in shard.entries}


def _check_tensors(
    shards: Sequence[Shard], listed: Mapping[str, str] | None, need: Mapping[str, tuple[int, ...]]
) -> list[Problem]:
    entries = {entry.name: (entry, shard.path.name) for shard in shards for entry in shard.entries}
    count = Counter(entry.name for shard in shards for entry in shard.entries)
    problems = []
    exactly = "exactly the published tensors"
    for got, names, hint in (
        ("missing", need.keys() - entries, INCOMPLETE),
        ("unknown", entries.keys() - need, "is it a checkpoint of this model?"),
        ("double", {name for name, times in count.items() if times > 1}, "remove the file that does not belong here"),
    ):
        if names:
            problems.append(Problem("weights", f"{name_some(names)} {got}", exactly, hint))
    if listed is not None:
        misplaced = {name for name in entries.keys() & need if listed.get(name) != entries[name][1]}
        if misplaced:
            hint = "index and shards are of different downloads"
            problems.append(Problem(INDEX_FILE, f"{name_some(misplaced)} in other files", "what the shards hold", hint))
    other_shapes = [
        Problem(f"{file}: {entry.name}", f"shape {list(entry.shape)}", f"{list(need[name])}, by config.json")
        for name, (entry, file) in entries.items()
        if name in need and entry.shape != need[name]
    ]
    problems += other_shapes[:NUM_NAMED]
    if len(other_shapes) > NUM_NAMED:
        more = f"{len(other_shapes) - NUM_NAMED} more tensors of other shapes"
        problems.append(Problem("weights", more, "the shapes by config.json", "is config.json of this checkpoint?"))
    return problems


def name_some(names: Iterable[str]) -> str:
    """Names the first few of many, in order."""
    ordered = sorted(names)
    more = f" and {len(ordered) - NUM_NAMED} more" if len(ordered) > NUM_NAMED else ""
    return ", ".join(quote(name) for name in ordered[:NUM_NAMED]) + more
