"""One ZeRO-2 rank with nccl on a GPU against one plain process on the same GPU: `python benchmarks/gpu_zero2.py`.

Trains the demo's recipe for 40 steps each way, in fp32 and without dropout, and checks that losses and adapters agree before it
says how long a step took. Writes `benchmarks/results/gpu_zero2--<device>.json`. Needs one GPU and DeepSpeed; without a GPU it
says so and measures nothing. `--rehearse` does the same on the CPU with two ranks over gloo and writes nothing.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from job import ROOT, write_result
from safetensors.torch import load_file

RECIPE = ROOT / "recipes" / "tiny_cpu.yaml"
NUM_STEPS = 40
LARGEST_DIFFERENCE = 1e-3
"""Of any logged loss: reductions on a GPU add up in another order."""


def main() -> None:
    """Runs both ways, checks them against each other, and writes the result."""
    rehearses = sys.argv[1:] == ["--rehearse"]
    if not rehearses and torch.cuda.device_count() != 1:
        sys.exit(f"{torch.cuda.device_count()} GPUs are visible, need 1: nothing was measured")
    device = "parallel.device=cpu" if rehearses else "parallel.device=cuda"
    num_gpus = "parallel.num_gpus=2" if rehearses else "parallel.num_gpus=auto"
    with tempfile.TemporaryDirectory() as folder:
        plain = train(Path(folder), "plain", device, "parallel.strategy=single")
        zero2 = train(Path(folder), "zero2", device, "parallel.strategy=zero2", num_gpus, "train.micro_batch_rows=8")
    loss_error = max(abs(a - b) for a, b in zip(plain["losses"], zero2["losses"], strict=True))
    adapter_error = max(
        float((plain["adapter"][name] - zero2["adapter"][name]).abs().max()) for name in plain["adapter"]
    )
    print(f"losses differ by at most {loss_error:.2e}, adapter weights by {adapter_error:.2e}")
    assert loss_error <= LARGEST_DIFFERENCE, loss_error
    assert ("gloo" if rehearses else "nccl") in zero2["ranks"], zero2["ranks"]
    seconds = {"plain": plain["seconds_per_step"], "zero2": zero2["seconds_per_step"]}
    print(f"seconds per step: {seconds}")
    if rehearses:
        return
    write_result(
        "gpu_zero2",
        gpu=torch.cuda.get_device_name(),
        command="cvft train recipes/tiny_cpu.yaml parallel.device=cuda parallel.strategy=zero2 parallel.num_gpus=auto",
        timed_region="ms-swift's own seconds per step at the last step",
        num_steps=NUM_STEPS,
        largest_loss_difference=loss_error,
        largest_adapter_difference=adapter_error,
        seconds_per_step=seconds,
    )


def train(root: Path, name: str, *settings: str) -> dict[str, Any]:
    """Trains once; returns losses, adapter, seconds per step and the backend of the ranks."""
    overrides = [f"output.root={root}", f"name={name}", f"train.max_steps={NUM_STEPS}"]
    overrides += ["train.epochs=null", "train.logging_steps=1", "lora.dropout=0.0", *settings]
    subprocess.run([sys.executable, "-m", "cvft", "train", str(RECIPE), *overrides], check=True)
    folder = root / name
    lines = [json.loads(line) for line in (folder / "train" / "logging.jsonl").read_text().splitlines()]
    logged = [line for line in lines if "loss" in line]
    logs = [*folder.glob("train/worker.log"), *folder.glob("train/logs/rank-0.log")]
    ranks = [line for log in logs for line in log.read_text().splitlines() if line.startswith("ranks ")]
    return {
        "losses": [line["loss"] for line in logged],
        "seconds_per_step": logged[-1]["train_speed(s/it)"],
        "adapter": load_file(folder / "adapter" / "adapter_model.safetensors"),
        "ranks": " ".join(ranks),
    }


if __name__ == "__main__":
    main()
