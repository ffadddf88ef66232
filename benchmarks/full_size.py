"""A folder of the published size, without its weights: `python benchmarks/full_size.py [--folder FOLDER]`.

Writes 25 GB of sparse files in the published form (random numbers in three decoder blocks), inspects them as a run does, merges
a random all-linear adapter into them shard by shard, and checks merged tensors bit for bit before it says what that took. The
time of the merge stands beside that of copying the same files. Needs 30 GB of disk.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from job import ROOT, write_result

sys.path.insert(0, str(ROOT))

from cvft.export.adapter import Adapter
from cvft.export.merge import merge_adapter, read_tensor
from cvft.export.tensors import compare_tensors
from cvft.families.cogvlm2_video.tensors import PARTS
from cvft.weights.header import Entry
from cvft.weights.shards import Shard, read_shards
from tests.official_folder import write_official_folder
from tests.random_adapter import base_of, contract_of, write_random_adapter

FILLED_BLOCKS = (9, 20, 31)
"""Decoder blocks that lie in two shards each; their weights are random, all others zero."""

INSPECT = """
import sys
from pathlib import Path
import torch
from cvft.families.cogvlm2_video.network.load import load_config
from cvft.families.cogvlm2_video.network.modeling import CogVLM2VideoForCausalLM
from cvft.families.cogvlm2_video.network.processor import CogVLM2VideoProcessor
from cvft.families.table import find_family
from cvft.weights.folder import ModelFolder, make_clean_view, tower_fingerprint
from cvft.weights.shards import read_shards
folder = ModelFolder.of(sys.argv[1])
family = find_family(folder)
read_shards(folder.path, family.tensors(folder.config)), folder.fingerprint
tower_fingerprint(folder.path, family.parts.tower)
with torch.device("meta"):
    model = CogVLM2VideoForCausalLM(load_config(folder))
assert sum(parameter.numel() for parameter in model.parameters()) == 12507530496
layout = CogVLM2VideoProcessor.from_pretrained(folder, template="chat").lay_out("Hi", time_indices=range(24))
assert len(layout) > 24 * 66
make_clean_view(folder.path, Path(sys.argv[2]), config=family.clean_config(folder.config))
"""


def main() -> None:
    """Builds, inspects, merges, checks, and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where to put the files; they are removed in the end")
    parser.add_argument("--merge-only", type=Path, nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.merge_only:
        merge(*options.merge_only)
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        measure(Path(name))


def measure(folder: Path) -> None:
    """Does all of it in one folder."""
    base = write_official_folder(folder / "cogvlm2-video-llama3-chat")
    model = base_of(base)
    shards = read_shards(base, model.family.tensors(model.folder.config))
    for shard in shards:
        fill(shard)
    adapter = write_random_adapter(base, folder / "adapter", targets="all-linear")
    inspected = run([sys.executable, "-c", INSPECT, str(base), str(folder / "view")])
    assert not (base / "CODE_RAN").exists()
    print(f"inspected in {inspected['seconds']} s with {inspected['peak_gib']} GiB")

    merged = folder / "merged"
    merging = run([sys.executable, __file__, "--merge-only", str(base), str(adapter), str(merged)])
    num_equal = count_equal(shards, merged, adapter)
    check = compare_tensors(model, adapter_folder=adapter, merged_folder=merged, dtype="bf16")
    subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=merged, check=True)
    print(f"{num_equal} merged tensors bit for bit as computed here; {check}")
    shutil.rmtree(merged)
    (folder / "copy").mkdir()
    copying = run(["cp", "--sparse=never", *map(str, base.glob("*.safetensors")), str(folder / "copy")])
    print(f"merged in {merging['seconds']} s with {merging['peak_gib']} GiB; copied in {copying['seconds']} s")
    path = write_result(
        "full_size",
        command="python benchmarks/full_size.py",
        timed_region="whole processes: imports, reading, computing, writing",
        gigabytes=round(sum(shard.path.stat().st_size for shard in shards) / 1e9, 2),
        num_changed_tensors=check.num_changed,
        num_bit_equal_tensors=num_equal,
        max_error_share=check.max_error_share,
        inspect=inspected,
        merge=merging,
        copy=copying,
    )
    print(path)


def merge(base: Path, adapter: Path, merged: Path) -> None:
    """Merges in a process of its own, so that its memory can be told."""
    model, wanted = base_of(base), contract_of(base)
    merge_adapter(model, adapter_folder=adapter, output=merged, dtype="bf16", keep_remote_code=False, wanted=wanted)


def run(command: list[str]) -> dict[str, Any]:
    """Runs a process; returns its seconds and the most memory that it had resident."""
    start = time.perf_counter()
    measured = "import os, resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True); "
    measured += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    result = subprocess.run([sys.executable, "-c", measured, *command], capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(result.stderr)
    peak_kib = int(result.stdout.splitlines()[-1])
    return {"seconds": round(time.perf_counter() - start, 1), "peak_gib": round(peak_kib / 2**20, 2)}


def fill(shard: Shard) -> None:
    """Writes random numbers into the chosen blocks of a sparse file."""
    generator = torch.Generator().manual_seed(0)
    with shard.path.open("r+b") as file:
        for entry in shard.entries:
            if is_filled(entry):
                numbers = torch.randn(entry.num_bytes // 2, generator=generator).mul_(0.02).to(torch.bfloat16)
                file.seek(entry.begin)
                file.write(numbers.view(torch.uint8).numpy().tobytes())


def is_filled(entry: Entry) -> bool:
    """Tells whether a tensor belongs to one of the chosen blocks."""
    return any(entry.name.startswith(f"model.layers.{number}.") for number in FILLED_BLOCKS)


def count_equal(shards: list[Shard], merged_folder: Path, adapter_folder: Path) -> int:
    """Computes every filled tensor anew, as one sum in fp32 that is rounded once, and insists on the same bits."""
    shapes = {entry.name: entry.shape for shard in shards for entry in shard.entries}
    merged = {entry.name: (shard, entry) for shard in read_shards(merged_folder, shapes) for entry in shard.entries}
    adapter = Adapter(adapter_folder, parts=PARTS, shapes=shapes)
    num_equal = 0
    for shard in shards:
        for entry in filter(is_filled, shard.entries):
            weight = read_tensor(shard, entry)
            if entry.name in adapter.changed:
                parts = adapter.parts_of(entry.name)
                update = parts["lora_B.weight"] @ parts["lora_A.weight"] * adapter.scale
                weight = (weight.float() + update).to(torch.bfloat16)
            assert torch.equal(weight, read_tensor(*merged[entry.name])), entry.name
            num_equal += 1
    return num_equal


if __name__ == "__main__":
    main()
