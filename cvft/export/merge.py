"""Merging: base + adapter -> one model folder under the published key names.

The folder is written beside its final name; whoever calls this verifies it there and renames it. It holds safetensors,
config.json without `auto_map`, the tokenizer files, the contract and the recipe.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from cvft.model.checkpoint import DTYPES, load_model
from cvft.model.contract import CONTRACT_FILE, Contract, check_contract, read_contract
from cvft.model.folder import CODE_SUFFIXES

WEIGHT_SUFFIXES = (".safetensors", ".bin", ".index.json")
NOT_COPIED = ("config.json", "args.json", "training_record.json")


def merge_adapter(
    base_folder: Path, *, adapter_folder: Path, output: Path, dtype: str, max_shard_gib: float, wanted: Contract
) -> Path:
    """Writes base and adapter as one model folder.

    Args:
        base_folder: The base that the adapter was trained on.
        adapter_folder: The adapter.
        output: Folder to write; must not exist.
        dtype: `bf16` or `fp32`, the precision of the merged weights.
        max_shard_gib: Largest weight file in GiB.
        wanted: The contract of the base and recipe at hand, held against the adapter's.

    Returns:
        `output`.

    Raises:
        ContractError: when the adapter was trained on another base or with other preprocessing.
        ModelError: when the base cannot be loaded.
    """
    from peft import PeftModel

    stored = read_contract(adapter_folder)
    check_contract(stored, wanted, folder=adapter_folder)
    base = load_model(base_folder, dtype=DTYPES[dtype], rope_precision=stored.rope_precision)
    merged = PeftModel.from_pretrained(base, str(adapter_folder)).merge_and_unload(safe_merge=True)
    merged.config.template_version = (
        stored.template
    )  # the published files all say "base", whatever they were trained on
    merged.save_pretrained(str(output), max_shard_size=int(max_shard_gib * 2**30))
    for path in sorted(base_folder.iterdir()):
        is_weight = path.name.endswith(WEIGHT_SUFFIXES)
        if path.is_file() and not is_weight and path.suffix not in CODE_SUFFIXES and path.name not in NOT_COPIED:
            shutil.copyfile(path, output / path.name)
    for name in (CONTRACT_FILE, "recipe.yaml"):
        if (adapter_folder / name).is_file():
            shutil.copyfile(adapter_folder / name, output / name)
    return output
