"""Merging: base + adapter -> one model folder, file by file; the whole model is never in memory.

The folder holds what the base's holds, in the same files and under the same names: safetensors with a list of their
sha256, index, config.json, tokenizer files, and the contract and the recipe. Code files come along only
when asked for; without them config.json is one that transformers opens without running code.

It is written beside its final name; whoever calls this verifies it there and renames it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cvft.dtypes import BY_NAME, BY_SAFETENSORS
from cvft.errors import Problem, RunError
from cvft.export import VERIFICATION_FILE
from cvft.export.adapter import Adapter
from cvft.families.contract import CONTRACT_FILE, Contract, check_contract, read_contract
from cvft.families.weight_files import read_model_shards
from cvft.plan.job import OpenModel
from cvft.weights.folder import CHECKSUM_FILE, CODE_SUFFIXES
from cvft.weights.header import Entry, make_header
from cvft.weights.shards import INDEX_FILE, Shard

NOT_COPIED = ("config.json", "args.json", "training_record.json", INDEX_FILE, CHECKSUM_FILE, VERIFICATION_FILE)
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")

PIECE_ITEMS = 1 << 23


def merge_adapter(
    base: OpenModel,
    *,
    adapter_folder: Path,
    output: Path,
    dtype: str,
    keep_remote_code: bool,
    wanted: Contract,
    on_progress: Callable[[int], object] | None = None,
) -> Path:
    """Writes base and adapter as one model folder.

    Args:
        base: The base that the adapter was trained on.
        adapter_folder: The adapter.
        output: Folder to write; must not exist.
        dtype: `bf16`, `fp16` or `fp32`, the precision of the merged weights. The merge itself is computed in fp32.
        keep_remote_code: Take over the base's code files and its way to name them, for tools that run them.
        wanted: The contract of the base and recipe at hand, compared with the adapter's.
        on_progress: Called with the bytes of weights read since the last call.

    Returns:
        `output`.

    Raises:
        ContractError: when the adapter was trained on another base or with other preprocessing.
        ModelError: when base or adapter are damaged or do not fit each other.
        RunError: when the disk has no room for the result.
    """
    stored = read_contract(adapter_folder)
    check_contract(stored, wanted, folder=adapter_folder)
    base_folder, family = base.path, base.family
    shards = list(base.shards or read_model_shards(base.folder, family))
    shapes = {entry.name: entry.shape for shard in shards for entry in shard.entries}
    adapter = Adapter(adapter_folder, parts=family.parts, shapes=shapes, module_of=family.module_of)
    stored_dtype = BY_NAME[dtype].safetensors
    _refuse_full_disk(shards, output.parent, stored_dtype)
    output.mkdir()
    sums = []
    for shard in shards:
        digest = _merge_shard(shard, adapter, output / shard.path.name, stored_dtype, on_progress or (lambda _: None))
        sums.append(f"{digest}  {shard.path.name}\n")
    (output / CHECKSUM_FILE).write_text("".join(sums), encoding="utf-8")
    if (base_folder / INDEX_FILE).is_file():
        num_bytes = sum(_num_bytes(entry, stored_dtype) for shard in shards for entry in shard.entries)
        places = {entry.name: shard.path.name for shard in shards for entry in shard.entries}
        _write_json(
            output / INDEX_FILE,
            {"metadata": {"total_size": num_bytes}, "weight_map": {name: places[name] for name in sorted(places)}},
        )
    config = family.merged_config(
        base.folder.config,
        template=stored.template,
        fields=stored.fields,
        dtype=BY_NAME[dtype].torch_name,
        keeps_code=keep_remote_code,
    )
    _write_json(output / "config.json", config)
    for path in sorted(base_folder.iterdir()):
        is_code = path.suffix in CODE_SUFFIXES and not (keep_remote_code and path.suffix == ".py")
        if path.is_file() and not is_code and path.suffix not in WEIGHT_SUFFIXES and path.name not in NOT_COPIED:
            shutil.copyfile(path, output / path.name)
    for name in (CONTRACT_FILE, "recipe.yaml"):
        if (adapter_folder / name).is_file():
            shutil.copyfile(adapter_folder / name, output / name)
    return output


def torch_dtype(safetensors_name: str) -> torch.dtype:
    """Returns torch's dtype by the name that safetensors gives it."""
    dtype: torch.dtype = getattr(torch, BY_SAFETENSORS[safetensors_name].torch_name)
    return dtype


def read_tensor(shard: Shard, entry: Entry) -> Tensor:
    """Reads one tensor of a weight file, without mapping the file into memory."""
    with shard.path.open("rb") as file:
        file.seek(entry.begin)
        data = bytearray(file.read(entry.num_bytes))
    return torch.frombuffer(data, dtype=torch_dtype(entry.dtype)).reshape(entry.shape)


def read_pieces(shard: Shard, entry: Entry) -> Iterator[Tensor]:
    """Reads one tensor of a weight file in flat pieces of up to `PIECE_ITEMS` numbers."""
    item_bytes = BY_SAFETENSORS[entry.dtype].num_bytes
    with shard.path.open("rb") as file:
        file.seek(entry.begin)
        for start in range(0, entry.num_bytes, PIECE_ITEMS * item_bytes):
            data = bytearray(file.read(min(PIECE_ITEMS * item_bytes, entry.num_bytes - start)))
            yield torch.frombuffer(data, dtype=torch_dtype(entry.dtype))


def _merge_shard(
    shard: Shard, adapter: Adapter, destination: Path, dtype: str, on_progress: Callable[[int], object]
) -> str:
    """Writes one weight file and returns its sha256."""
    changed = set(adapter.changed)
    digest = hashlib.sha256()
    with destination.open("xb") as file:

        def write(data: bytes | memoryview) -> None:
            digest.update(data)
            file.write(data)

        write(make_header([(entry.name, dtype, entry.shape) for entry in shard.entries], shard.metadata))
        for entry in shard.entries:
            if entry.name in changed:
                # in fp32, so that what is written is the sum rounded once, and not the sum of rounded numbers
                merged = adapter.merge(entry.name, read_tensor(shard, entry).float())
                write(_as_bytes(merged.to(torch_dtype(dtype))))
                on_progress(entry.num_bytes)
                continue
            if entry.name in adapter.replaced:
                write(_as_bytes(adapter.replaced[entry.name].to(torch_dtype(dtype))))
                on_progress(entry.num_bytes)
                continue
            for piece in read_pieces(shard, entry):
                write(_as_bytes(piece.to(torch_dtype(dtype))))
                on_progress(piece.nbytes)
    return digest.hexdigest()


def _as_bytes(tensor: Tensor) -> memoryview:
    return tensor.contiguous().flatten().view(torch.uint8).numpy().data


def _num_bytes(entry: Entry, dtype: str) -> int:
    return entry.num_bytes // BY_SAFETENSORS[entry.dtype].num_bytes * BY_SAFETENSORS[dtype].num_bytes


def _refuse_full_disk(shards: Sequence[Shard], folder: Path, dtype: str) -> None:
    need = sum(_num_bytes(entry, dtype) for shard in shards for entry in shard.entries)
    free = shutil.disk_usage(folder).free
    if free < need:
        problem = Problem(
            f"disk of {folder}", f"{free / 1e9:.1f} GB free", f"{need / 1e9:.1f} GB for the merged weights"
        )
        raise RunError("the merged model", [problem])


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
