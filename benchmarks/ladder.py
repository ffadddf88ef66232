"""Rows per second from the stock path to ours, one change per rung: `python benchmarks/ladder.py`.

Every rung trains the same rows in the same steps (all rows are one step) with the same native model through ms-swift, in a
process of its own, and must log the losses of the first rung before its time counts. The stock path decodes and encodes a clip
anew for every row, recomputes activations in the backward pass (ms-swift's default) and computes the logits of every token.

On the CPU: the tiny model, at 8 rows per clip and at one. `--gpu`: the full-size architecture in random weights (bf16, 25 GB are
written to a temporary folder first), at 7.5 rows per clip as in VideoInstruct, and groups of 8 rows within the memory of a 24 GB
card; `--gpu --rehearse` does the same on the CPU with tiny sizes and without the limit. Results go to
`benchmarks/results/ladder--<device>.json`; a rehearsal writes none.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from job import write_result
from workload import make_rows

from cvft.data.rows import read_rows
from cvft.files import write_whole
from cvft.plan.batching import describe_training, peak_of
from cvft.plan.forecast import LANGUAGE_UTILISATION, STOCK_UTILISATION, estimated_seconds
from cvft.plan.gpus import find_gpu
from cvft.plan.job import Job, open_job
from cvft.plan.machine import read_machine
from cvft.plan.passes import batches_of_epoch
from cvft.plan.plan import Plan, compile_plan
from cvft.plan.prepare import PreparedRows, prepare
from cvft.recipe import LoadedRecipe, Recipe, recipe_from_dict
from cvft.train.row_files import write_row_files
from cvft.weights.folder import make_clean_view

SMALL_CARD_GIB = 22.5
"""What a 24 GB card leaves to torch's allocator beside the CUDA context."""

LARGEST_LOSS_DIFFERENCE = {"fp32": 1e-4, "bf16": 3e-2}

Change = Callable[[Plan], Plan]


def keep(plan: Plan) -> Plan:
    """Leaves a plan as the recipe makes it."""
    return plan


def stock(plan: Plan) -> Plan:
    """Makes a plan decode anew for every row and score every token."""
    worker = dataclasses.replace(plan.worker, clip_cache_bytes=0, label_logits_only=False)
    return dataclasses.replace(plan, worker=worker)


def decode_anew(plan: Plan) -> Plan:
    """Makes a plan decode anew for every row."""
    return dataclasses.replace(plan, worker=dataclasses.replace(plan.worker, clip_cache_bytes=0))


OFF = {"train.group_by_clip": "off", "video.cache_features": "off"}
RUNGS: tuple[tuple[str, Mapping[str, object], Change], ...] = (
    ("stock", {**OFF, "train.gradient_checkpointing": True}, stock),
    ("no recomputation", {**OFF, "train.gradient_checkpointing": False}, stock),
    ("label-only logits", {**OFF, "train.gradient_checkpointing": False}, decode_anew),
    ("clips decoded once", {**OFF, "train.gradient_checkpointing": False}, keep),
    ("features cached", {**OFF, "train.gradient_checkpointing": False, "video.cache_features": "on"}, keep),
    ("groups by clip", {"train.gradient_checkpointing": False}, keep),
)
FIRST_AND_LAST = (RUNGS[0], ("ours, all left to auto", {}, keep))


def main() -> None:
    """Climbs the ladder and writes the result."""
    on_gpu, rehearses = "--gpu" in sys.argv[1:], "--rehearse" in sys.argv[1:]
    if on_gpu and not rehearses and torch.cuda.device_count() != 1:
        sys.exit(f"{torch.cuda.device_count()} GPUs are visible, need 1: nothing was measured")
    with tempfile.TemporaryDirectory(dir=os.environ.get("CVFT_BENCH_DIR")) as folder:
        root = Path(folder)
        cases = gpu_cases(root, rehearses=rehearses) if on_gpu else cpu_cases(root)
        results = {name: climb(root / name.replace(" ", "_"), **case) for name, case in cases.items()}
    if rehearses:
        return
    gpu = torch.cuda.get_device_name() if on_gpu else None
    path = write_result(
        "ladder",
        gpu=gpu,
        command=f"python benchmarks/ladder.py{' --gpu' if on_gpu else ''}",
        timed_region="from the first step's wait for rows to the end of the last step, and encoding clips where they are cached",
        cases=results,
    )
    print(path)


def cpu_cases(root: Path) -> dict[str, Any]:
    """The tiny model: prefixes of 24 frames, questions and answers in the proportion of VideoInstruct's."""
    many = make_rows(root / "many", num_clips=12, rows_per_clip=8)
    single = make_rows(root / "single", num_clips=48, rows_per_clip=1, seed=1)
    base = {"model": {"path": "tiny", "dtype": "fp32"}, "device": "cpu", "micro_batch_rows": 8}
    return {
        "8 rows per clip, 3 epochs": {**base, "rows": many, "epochs": 3, "rungs": RUNGS},
        "8 rows per clip, 1 epoch": {**base, "rows": many, "epochs": 1, "rungs": FIRST_AND_LAST},
        "1 row per clip, 3 epochs": {**base, "rows": single, "epochs": 3, "rungs": FIRST_AND_LAST},
        "1 row per clip, 1 epoch": {**base, "rows": single, "epochs": 1, "rungs": FIRST_AND_LAST},
    }


def gpu_cases(root: Path, *, rehearses: bool) -> dict[str, Any]:
    """The full-size architecture: 24 frames, about 40 tokens of question and 60 of answer per row, an assumption."""
    model = make_random_model(root / "model", full_size=not rehearses)
    # the tiny tokenizer makes a token of a word
    words = {"question_words": (25, 45), "answer_words": (40, 80)}
    rows = make_rows(root / "rows", num_clips=4 if rehearses else 16, rows_per_clip=7.5, **words)
    eight = make_rows(root / "eight", num_clips=2 if rehearses else 4, rows_per_clip=8, seed=1, **words)
    base = {"model": {"path": str(model), "dtype": "bf16"}, "device": "cpu" if rehearses else "cuda", "epochs": 2}
    small_card = (("groups, recomputing", {"train.gradient_checkpointing": True, "train.max_rows_per_group": 8}, keep),)
    limit = {} if rehearses else {"memory_limit_gib": SMALL_CARD_GIB}
    return {
        "7.5 rows per clip, 2 epochs": {**base, "rows": rows, "micro_batch_rows": 1, "rungs": RUNGS},
        "groups of 8 rows on a 24 GB card": {
            **base,
            **limit,
            "rows": eight,
            "micro_batch_rows": 1,
            "rungs": small_card,
        },
    }


def make_random_model(folder: Path, *, full_size: bool) -> Path:
    """Writes a model folder of random weights with the tiny tokenizer; the published sizes, or tiny ones."""
    import shutil

    from cvft.families.cogvlm2_video.network.configuration import CogVLM2VideoConfig
    from cvft.families.cogvlm2_video.network.load import load_config
    from cvft.families.cogvlm2_video.network.modeling import CogVLM2VideoForCausalLM
    from cvft.shipped import SHIPPED

    tiny = load_config(SHIPPED["tiny"].folder)
    ids = {name: getattr(tiny, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = CogVLM2VideoConfig(**ids, max_position_embeddings=4096) if full_size else tiny
    config.template_version = "chat"
    torch.manual_seed(0)
    device = "cuda" if full_size else "cpu"
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        model = CogVLM2VideoForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder, max_shard_size="4GB")
    shutil.copy(SHIPPED["tiny"].folder / "tokenizer.json", folder)
    shutil.copy(SHIPPED["tiny"].folder / "tokenizer_config.json", folder)
    return folder


def climb(
    root: Path,
    *,
    model: dict[str, str],
    device: str,
    rows: Path,
    epochs: int,
    micro_batch_rows: int,
    rungs: Any,
    memory_limit_gib: float | None = None,
) -> dict[str, Any]:
    """Measures the rungs of one case and prints them; every rung's losses are held against the first's."""
    num_rows = len(read_rows(rows))
    results: dict[str, Any] = {}
    first: list[float] = []
    for name, settings, change in rungs:
        result = measure(
            root / name.replace(" ", "_"),
            make_recipe(model, device, rows, epochs, micro_batch_rows, num_rows, settings, root=root),
            change,
            memory_limit_gib=memory_limit_gib,
        )
        first = first or result["losses"]
        error = max(abs(a - b) for a, b in zip(first, result["losses"], strict=True))
        assert error <= LARGEST_LOSS_DIFFERENCE[model["dtype"]], (name, error)
        result |= {"largest_loss_difference": error, "rows_per_s": num_rows * epochs / result["seconds"]}
        results[name] = result
        result["times_stock"] = result["rows_per_s"] / next(iter(results.values()))["rows_per_s"]
        spent = f"encoding {result['encoding_s']:.1f}, waiting {result['waited_s']:.1f}"
        print(
            f"losses within {error:.1e} of the first | {name:<24} {result['rows_per_s']:8.2f} rows/s  "
            f"x{result['times_stock']:.2f}  (of {result['seconds']:.1f} s: {spent})",
            flush=True,
        )
    return {"num_rows": num_rows, "epochs": epochs, "micro_batch_rows": micro_batch_rows, "rungs": results}


def make_recipe(
    model: dict[str, str],
    device: str,
    rows: Path,
    epochs: int,
    micro_batch_rows: int,
    num_rows: int,
    settings: Mapping[str, object],
    *,
    root: Path,
) -> Recipe:
    """Builds the recipe of a rung: all rows are one step, so that grouping does not change which rows meet."""
    global_batch = -(-num_rows // micro_batch_rows) * micro_batch_rows
    values: dict[str, Any] = {
        "name": "run",
        "model": model,
        "data": {"train": str(rows), "val_fraction": 0.0, "max_tokens": 4096},
        "lora": {"targets": "qkv", "rank": 8, "dropout": 0.0},
        "train": {"epochs": float(epochs), "global_batch_rows": global_batch, "micro_batch_rows": micro_batch_rows},
        "video": {},
        "parallel": {"device": device},
        "output": {"root": str(root)},
    }
    values["train"] |= {"logging_steps": 1}
    for path, value in settings.items():
        section, key = path.split(".")
        values[section][key] = value
    return recipe_from_dict(values)


def measure(
    folder_path: Path, recipe: Recipe, change: Change, *, memory_limit_gib: float | None = None
) -> dict[str, Any]:
    """Trains once, on a GPU within a limit if there is one, and reads what the worker has told."""
    recipe = recipe.model_copy(
        update={"output": recipe.output.model_copy(update={"root": folder_path, "features": folder_path / "features"})}
    )
    loaded = LoadedRecipe(recipe=recipe, path=Path(__file__), chain_of_files=(), overrides=())
    # the same plan on every CPU
    job = open_job(loaded, trains=True, machine=dataclasses.replace(read_machine(), host_bytes=16 << 30))
    folder = job.run
    folder.train.mkdir(parents=True)
    prepared = prepare(job)
    plan = change(compile_plan(job, prepared.row_facts))
    write_row_files(prepared, folder)
    make_clean_view(job.model.path, folder.model_view, config=job.family.clean_config(job.model.folder.config))
    write_whole(folder.plan_file, plan.to_json())
    log = folder.train / "worker.log"
    with log.open("wb") as file:
        command = plan.launch.command
        if memory_limit_gib is not None:
            command = limited(command, memory_limit_gib)
        process = subprocess.Popen(command, env={**os.environ, **plan.launch.environment}, stdout=file, stderr=file)
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(log.read_text()[-4000:])
    told = [json.loads(line) for line in folder.progress_file.read_text().splitlines()]
    encoded = [line["time_s"] for line in told if "encoded" in line]
    steps = [line for line in told if "step" in line]
    waited = [line["waited_s"] for line in steps if "waited_s" in line]
    losses = [
        line["loss"]
        for line in map(json.loads, (folder.train / "logging.jsonl").read_text().splitlines())
        if "loss" in line
    ]
    last_step_s = max(line["time_s"] for line in steps if "waited_s" in line)
    encoding_s = encoded[-1] - encoded[0] if encoded else 0.0
    gpu_bytes = [line["peak_gpu_bytes"] for line in told if "peak_gpu_bytes" in line]
    return {
        "losses": losses,
        "seconds": last_step_s - steps[0]["time_s"] + encoding_s,
        "encoding_s": encoding_s,
        "waited_s": waited[-1],
        "peak_bytes": gpu_bytes[-1] if gpu_bytes else usage.ru_maxrss * 1024,
        **predict(job, plan, prepared),
    }


def limited(command: tuple[str, ...], memory_limit_gib: float) -> tuple[str, ...]:
    """Returns a worker's command in a process whose allocator takes no more of the GPU than this."""
    python, _, module, plan_file = command
    share = memory_limit_gib * 2**30 / torch.cuda.mem_get_info()[1]
    code = (
        "import runpy, sys, torch; "
        f"torch.cuda.set_per_process_memory_fraction({share}); "
        f"sys.argv = [{module!r}, {plan_file!r}]; runpy.run_module({module!r}, run_name='__main__')"
    )
    return python, "-c", code


def predict(job: Job, plan: Plan, prepared: PreparedRows) -> dict[str, Any]:
    """What the models of FLOPs and memory say of a rung, to stand beside what was measured."""
    worker, costs = plan.worker, job.family.costs(job.model.folder.config)
    assert costs is not None
    caches = worker.features is not None
    training = describe_training(job, caches=caches, recompute=plan.swift["gradient_checkpointing"])
    training = dataclasses.replace(training, scores_all_tokens=not worker.label_logits_only)
    shapes = prepared.row_facts.train
    batches = batches_of_epoch(shapes, limits=worker.limits, num_ranks=1, seed=job.recipe.seed, caches=caches)
    flops = sum(costs.training_flops(batch, training).total for batch in batches)
    gpu = find_gpu(torch.cuda.get_device_name()) if worker.device == "cuda" else None
    utilisation = LANGUAGE_UTILISATION if worker.label_logits_only else STOCK_UTILISATION
    return {
        "num_passes_per_epoch": len(batches),
        "physical_tokens_per_epoch": sum(batch.num_tokens for batch in batches),
        "logical_tokens_per_epoch": sum(shape.num_tokens for shape in shapes),
        "predicted_flops_per_epoch": flops,
        "predicted_seconds_per_epoch": estimated_seconds(flops, gpu, utilisation=utilisation) if gpu else None,
        "predicted_peak_bytes": peak_of(costs, batches, training).peak,
    }


if __name__ == "__main__":
    main()
