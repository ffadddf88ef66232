"""The whole job at full size on one GPU: `python benchmarks/gpu_full_size.py`; `--rehearse` does it on the CPU at small size.

First the bf16 goldens on the device. Then a folder of the published form with random weights (25 GB on disk), `cvft run` for 20
steps through ms-swift, merge and verification, evaluation, and `cvft infer` with the merged folder. Peak memory and rows per
second stand beside what `cvft plan` predicts. Writes `benchmarks/results/gpu_full_size--<device>.json`, a rehearsal nothing.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from job import ROOT, run_job, write_result
from workload import make_rows

sys.path.insert(0, str(ROOT))

from cvft.families.cogvlm2_video.network.configuration import CogVLM2VideoConfig
from cvft.families.cogvlm2_video.network.modeling import CogVLM2VideoForCausalLM
from cvft.families.cogvlm2_video.tensors import published_shapes
from cvft.weights.header import Entry
from cvft.weights.shards import read_shards
from tests.golden_files import golden_files, open_golden_model
from tests.official_folder import CONFIG, small_config, write_official_folder

NUM_STEPS = 20
NUM_CLIPS, ROWS_PER_CLIP = 40, 8
RECIPE = ROOT / "recipes" / "cogvlm2_video_lora_80gb.yaml"

MAX_GOLDEN_ERROR = 0.05
"""Largest relative error of bf16 logits against the published code's, which were computed on a CPU."""


def main() -> None:
    """Does all of it."""
    rehearses = sys.argv[1:] == ["--rehearse"]
    if not rehearses and torch.cuda.device_count() != 1:
        sys.exit(f"{torch.cuda.device_count()} GPUs are visible, need 1: nothing was measured")
    device = "cpu" if rehearses else "cuda"
    golden_errors = check_goldens(device)
    print(f"bf16 goldens on {device}: relative errors {golden_errors}")
    with tempfile.TemporaryDirectory() as name:
        result = train_merge_answer(Path(name), rehearses=rehearses)
    print(json.dumps(result, indent=2))
    if not rehearses:
        path = write_result(
            "gpu_full_size",
            gpu=torch.cuda.get_device_name(),
            golden_errors=golden_errors,
            num_steps=NUM_STEPS,
            **result,
        )
        print(path)


def check_goldens(device: str) -> dict[str, float]:
    """Computes the published code's bf16 logits on the device; returns the relative error of each case."""
    errors = {}
    for path in golden_files("model_*bf16*.safetensors"):
        with open_golden_model(path) as golden:
            config = CogVLM2VideoConfig(**golden.config)
            model = CogVLM2VideoForCausalLM._from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa")
            model.to(torch.bfloat16).load_state_dict(golden.weights(), strict=True)
            model.to(device).eval()
            for name in golden.cases():
                case = golden.case(name)
                inputs = {
                    key: case[key].to(device) for key in ("input_ids", "token_type_ids", "pixel_values") if key in case
                }
                with torch.no_grad():
                    got = model(**inputs).logits.float().cpu()
                error = ((got - case["logits"].float()).norm() / case["logits"].float().norm()).item()
                assert error <= MAX_GOLDEN_ERROR, (path.name, name, error)
                errors[f"{path.stem} {name}"] = round(error, 5)
    assert errors, "no bf16 goldens"
    return errors


def train_merge_answer(folder: Path, *, rehearses: bool) -> dict[str, Any]:
    """Runs the job on random weights; returns what was predicted and what was measured."""
    base = folder / "cogvlm2-video-llama3-chat"
    if rehearses:
        write_official_folder(base, config=small_config(), seed=0)
    else:
        write_official_folder(base)
        fill(base)
    rows = make_rows(folder / "rows", num_clips=4 if rehearses else NUM_CLIPS, rows_per_clip=ROWS_PER_CLIP)
    overrides = [
        f"model.path={base}",
        f"data.train={rows}",
        "train.epochs=null",
        f"train.max_steps={NUM_STEPS}",
        "train.logging_steps=1",
        "eval.num_rows=8",
        "eval.max_new_tokens=1",  # random weights choose between near-equal logits: later tokens would say nothing
        f"optim.learning_rate={1e-2 if rehearses else 1e-3}",
        f"parallel.device={'cpu' if rehearses else 'cuda'}",
    ]
    if rehearses:
        overrides.append("video.max_frames=4")
    planned = json.loads(cvft("plan", str(RECIPE), *overrides, "--json"))
    run, seconds = run_job(RECIPE, name="full", root=folder / "runs", overrides=overrides)
    losses = [
        line["loss"]
        for line in map(json.loads, (run / "train" / "logging.jsonl").read_text().splitlines())
        if "loss" in line
    ]
    assert len(losses) == NUM_STEPS, losses
    assert losses[-1] < losses[0], losses
    verification = json.loads((run / "merged" / "cvft_verification.json").read_text())
    clip = next((folder / "rows").glob("*.mp4"))
    answer = cvft("infer", "--model", str(run / "merged"), "--video", str(clip), "--query", "What is shown?")
    told = [json.loads(line) for line in (run / "train" / "progress.jsonl").read_text().splitlines()]
    steps = [line for line in told if line.get("step") and "waited_s" in line]
    elapsed_s = steps[-1]["time_s"] - steps[0]["time_s"]  # the first step warms up
    rows_per_step = planned["batch"]["rows_per_step"]
    predicted_s = planned["seconds"]["epoch"]
    return {
        "losses": [losses[0], losses[-1]],
        "verification": verification,
        "answer_characters": len(answer),
        "whole_run_s": seconds,
        "rows_per_s": round((len(steps) - 1) * rows_per_step / elapsed_s, 2),
        "predicted_rows_per_s": round(planned["rows"]["train"] / predicted_s, 2) if predicted_s else None,
        "peak_reserved_gb": max((line["peak_gpu_bytes"] for line in told if "peak_gpu_bytes" in line), default=0) / 1e9,
        "predicted_peak_gb": planned["memory_bytes"]["peak"] / 1e9,
    }


def fill(folder: Path) -> None:
    """Writes random weights into a sparse folder, drawn on the GPU."""
    generator = torch.Generator("cuda").manual_seed(0)
    for shard in read_shards(folder, published_shapes(CONFIG)):
        with shard.path.open("r+b") as file:
            for entry in shard.entries:
                file.seek(entry.begin)
                file.write(draw(entry, generator).view(torch.uint8).cpu().numpy().tobytes())


def draw(entry: Entry, generator: torch.Generator) -> torch.Tensor:
    """Draws a tensor's values: ones for norms, the table for rotary frequencies, small normal numbers for the rest."""
    if entry.name.endswith("inv_freq"):
        head_dim = 2 * entry.shape[0]
        return (500000.0 ** -(torch.arange(0, head_dim, 2) / head_dim)).to(torch.bfloat16)
    if "norm" in entry.name:
        make = torch.ones if entry.name.endswith("weight") else torch.zeros
        return make(entry.shape, dtype=torch.bfloat16)
    values = torch.randn(entry.shape, generator=generator, device="cuda", dtype=torch.bfloat16)
    return values.mul_(0.02).flatten()


def cvft(*words: str) -> str:
    """Runs a command of ours and returns what it prints."""
    result = subprocess.run([sys.executable, "-m", "cvft", *words], capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(result.stderr)
    return result.stdout


if __name__ == "__main__":
    main()
