"""The weight files of a model folder as files: their headers, what lies where, and whether all of it is there. No torch.

folder -> `Shard`s with their `Entry`s, held against the index and config.json -> bytes of a tensor, without loading a file

safetensors: 8 bytes with the header's length | header: JSON, padded with spaces | the tensors' bytes. Source: its README.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cvft.dtypes import BY_SAFETENSORS
from cvft.errors import ModelError, Problem, quote
from cvft.families.cogvlm2_video.tensors import published_shapes

INDEX_FILE = "model.safetensors.index.json"
"""Says which tensor lies in which file. Source: the published folders."""

METADATA = "__metadata__"
LENGTH_BYTES = 8
ALIGNMENT_BYTES = 8
NUM_NAMED = 3

INCOMPLETE = "is the download complete? Get the file again"


@dataclass(frozen=True)
class Entry:
    """A tensor in a file.

    Args:
        name: Published name.
        dtype: As safetensors names it.
        shape: Its shape.
        begin: First byte, counted from the start of the file.
        num_bytes: How many follow.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    num_bytes: int


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
        ModelError: when there is none.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        hint = "is the download complete? Only safetensors are read, never pickles"
        raise ModelError(f"model {folder}", [Problem("weights", "no *.safetensors file", "the model's weights", hint)])
    return files


def read_shard(path: Path) -> Shard:
    """Reads a weight file's header and holds it against the file's size.

    Raises:
        ModelError: when the header is broken, leaves bytes unaccounted for, or promises more than the file holds.
    """

    def broken(got: str, need: str) -> ModelError:
        return ModelError(f"model {path.parent}", [Problem(path.name, got, need, INCOMPLETE)])

    num_file_bytes = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        if LENGTH_BYTES + length > num_file_bytes:
            raise broken(f"{num_file_bytes} bytes", "a safetensors file; its header alone would be longer")
        try:
            header: dict[str, Any] = json.loads(file.read(length))
            metadata = header.pop(METADATA, {})
            entries = [_read_entry(name, values, LENGTH_BYTES + length) for name, values in header.items()]
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise broken(f"a broken header ({error})", "a safetensors file") from error
    entries.sort(key=lambda entry: entry.begin)
    end = LENGTH_BYTES + length
    for entry in entries:
        if entry.begin != end:
            raise broken(f"{quote(entry.name)} at byte {entry.begin}", f"it at {end}, where the one before ends")
        end += entry.num_bytes
    if end != num_file_bytes:
        raise broken(f"{num_file_bytes} bytes", f"{end} bytes, as its header says")
    return Shard(path, tuple(entries), metadata)


def _read_entry(name: str, values: Mapping[str, Any], first_byte: int) -> Entry:
    begin, end = values["data_offsets"]
    dtype, shape = values["dtype"], tuple(values["shape"])
    if dtype not in BY_SAFETENSORS:
        raise ValueError(f"{name} is {dtype}, not one of {', '.join(BY_SAFETENSORS)}")
    if end - begin != math.prod(shape) * BY_SAFETENSORS[dtype].num_bytes:
        raise ValueError(f"{name}: {end - begin} bytes for shape {list(shape)} in {dtype}")
    return Entry(name, dtype, shape, first_byte + begin, end - begin)


def read_shards(folder: Path, config: Mapping[str, Any]) -> list[Shard]:
    """Reads the headers of a folder's weight files and proves that together they are exactly the model.

    Args:
        folder: Model folder.
        config: Its config.json as `read_config_json` returns it.

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
    listed = _read_index(folder, problems)
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
    elif len(present) > 1:
        problems.append(Problem(INDEX_FILE, "no such file", f"it beside {len(present)} weight files", INCOMPLETE))
    if not problems:  # tensors of a damaged or missing file would all be told again as missing
        problems += _check_tensors(shards, listed, published_shapes(config))
    if problems:
        raise ModelError(f"model {folder}", problems)
    return shards


def _read_index(folder: Path, problems: list[Problem]) -> dict[str, str] | None:
    path = folder / INDEX_FILE
    if not path.is_file():
        return None
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        return {str(name): str(file) for name, file in listed.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        problems.append(Problem(INDEX_FILE, f"broken ({error!r})", "`weight_map`, from tensors to files", INCOMPLETE))
        return None


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
    problems += [
        Problem(f"{file}: {entry.name}", f"shape {list(entry.shape)}", f"{list(need[name])}, by config.json")
        for name, (entry, file) in entries.items()
        if name in need and entry.shape != need[name]
    ]
    return problems


def name_some(names: Iterable[str]) -> str:
    """Names the first few of many, in order."""
    ordered = sorted(names)
    more = f" and {len(ordered) - NUM_NAMED} more" if len(ordered) > NUM_NAMED else ""
    return ", ".join(quote(name) for name in ordered[:NUM_NAMED]) + more


def make_header(entries: Iterable[tuple[str, str, Sequence[int]]], metadata: Mapping[str, str]) -> bytes:
    """Makes the head of a weight file.

    Args:
        entries: Name, dtype and shape of each tensor, in the order in which their bytes will follow.
        metadata: Free text for the header.

    Returns:
        Length and header, padded with spaces so that the tensors start at a multiple of 8 bytes.
    """
    header: dict[str, Any] = {METADATA: dict(metadata)} if metadata else {}
    end = 0
    for name, dtype, shape in entries:
        begin, end = end, end + math.prod(shape) * BY_SAFETENSORS[dtype].num_bytes
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % ALIGNMENT_BYTES)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text
