"""Plans and forecasts in words, for the terminal."""

from __future__ import annotations

import json
import math
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from cvft.data.features.store import FeatureStore
from cvft.data.groups import clips_per_step, rows_of_epoch
from cvft.plan.batching import RowFacts
from cvft.plan.forecast import Forecast
from cvft.plan.notes import NUM_EXAMPLES, note_plan
from cvft.plan.plan import Plan
from cvft.plan.prepare import PreparedRows
from cvft.plan.ranks import worker_command

PERCENTILES = (0, 50, 90, 99, 100)
GIGA = 1e9


def describe_plan(plan: Plan, prepared: PreparedRows, *, about: str = "", why_cached: str = "") -> str:
    """Writes what a plan will do in a few lines for the terminal.

    Args:
        plan: The plan.
        prepared: Its rows and clips.
        about: What stands before numbers that depend on the lengths of texts.
        why_cached: What follows on what is kept of clips.
    """
    rows, worker = prepared.row_facts, plan.worker
    num_tokens = sorted(shape.num_tokens for shape in (*rows.train, *rows.val))
    lines = [
        f"rows      {len(rows.train)} train, {len(rows.val)} val, {len(prepared.quarantined)} quarantined; "
        f"{len(prepared.clips)} clips",
        *_describe_mix(rows),
        *_describe_quarantine(prepared),
        f"tokens    {about}{num_tokens[0]} to {num_tokens[-1]} per row, median {num_tokens[len(num_tokens) // 2]}",
        f"inputs    {worker.preprocessing}",
        f"batch     {_describe_batch(plan, rows, about=about)}",
        f"{_describe_cache(plan)}{why_cached}",
        f"steps     {worker.num_steps} ({worker.steps_per_epoch} per epoch), {plan.swift['torch_dtype']}, "
        f"{_describe_kernels(plan)}",
        f"saves     {_describe_saves(plan)}",
        *(f"note      {note}" for note in (*prepared.notes, *note_plan(plan))),
    ]
    return "\n".join(lines)


def _describe_mix(rows: RowFacts) -> list[str]:
    """Says how much of an epoch each of several files is."""
    return [
        f"{'' if number else 'mix':<10}{share.num_per_epoch} of {rows.num_per_epoch} rows per epoch "
        f"({share.num_per_epoch / rows.num_per_epoch:.0%}) from {share.name}: {share.num_rows} x {share.weight:g}"
        for number, share in enumerate(rows.mix)
    ]


def _describe_quarantine(prepared: PreparedRows) -> list[str]:
    examples = _quarantined_examples(prepared)
    return [f"{'' if number else 'set aside':<10}{example}" for number, example in enumerate(examples)]


def _quarantined_examples(prepared: PreparedRows) -> list[str]:
    """Returns a row of each of some bad clips, with the reason; the run's quarantine.jsonl lists all."""
    by_clip = {item.row.videos: item for item in reversed(prepared.quarantined)}
    return [str(item) for item in list(by_clip.values())[::-1][:NUM_EXAMPLES]]


def _describe_saves(plan: Plan) -> str:
    """Says how often checkpoints are written and the val loss is measured; both happen at the last step too."""
    saves, measures = count_saves(plan), count_measures(plan)
    checkpoints = f"{_count(saves, 'checkpoint')}, {_every(plan.swift['save_steps'], saves)}"
    if not measures:
        return f"{checkpoints}; no val rows to measure a loss on"
    passes = f"{_count(measures, 'val pass', 'val passes')}, {_every(plan.swift['eval_steps'], measures)}"
    worker = plan.worker
    answers = f", each answers {_count(worker.answers.num_rows, 'val row')}" if worker.answers else ""
    ends = (
        f"; ends when {worker.early_stop_evals} in a row are no better by {worker.select_by}"
        if worker.early_stop_evals
        else ""
    )
    return f"{checkpoints}; {passes}{answers}{ends}"


def count_saves(plan: Plan) -> int:
    """Returns how many checkpoints a training writes."""
    return math.ceil(plan.worker.num_steps / int(plan.swift["save_steps"]))


def count_measures(plan: Plan) -> int:
    """Returns how often a training measures the val loss."""
    return math.ceil(plan.worker.num_steps / int(plan.swift["eval_steps"])) if plan.swift["val_dataset"] else 0


def _every(num_steps: int, times: int) -> str:
    return f"one every {num_steps} steps" if times > 1 else "at the end"


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or f'{one}s'}"


def _describe_weights(total: int | None, trained: int | None) -> str:
    if total is None:
        return "their number is not known without the weight files"
    return f"{total:,} of which {trained:,} are trained"


def _describe_kernels(plan: Plan) -> str:
    loading = plan.worker.loading
    quantized = "" if loading.quantize == "none" else f"decoder blocks in {loading.quantize}, "
    hosted = "input embedding on the CPU, " if loading.embeddings_on_cpu else ""
    kept = "recomputed" if plan.swift["gradient_checkpointing"] else "kept"
    return f"{quantized}{hosted}attention {loading.attention}, activations {kept} for the backward pass"


def _describe_batch(plan: Plan, rows: RowFacts, *, about: str) -> str:
    worker, limits = plan.worker, plan.worker.limits
    spread = f"x {worker.num_ranks} ranks ({worker.strategy})"
    if limits.max_rows_per_group == 1:
        num_passes = limits.global_batch_rows // (limits.micro_batch_rows * worker.num_ranks)
        micro = f"{limits.micro_batch_rows} rows x {num_passes} accumulated"
        return f"{limits.global_batch_rows} rows per step = {micro} {spread}"
    num_clips = clips_per_step(
        rows.train,
        global_batch_rows=limits.global_batch_rows,
        max_rows_per_group=limits.max_rows_per_group,
        seed=plan.swift["data_seed"],
        mix=rows.mix,
    )
    return (
        f"{limits.global_batch_rows} rows per step, grouped by clip with at most {limits.max_rows_per_group} rows a group: "
        f"{num_clips:.1f} clips per step, at most {about}{limits.micro_batch_tokens} tokens per micro-batch {spread}"
    )


def _describe_cache(plan: Plan) -> str:
    worker, key = plan.worker, plan.worker.cache_key
    if key is None:
        if worker.features is None:
            return "features  not cached: the tower encodes clips as they come"
        # a forecast reads no weights, and so has no key
        return f"features  each clip is encoded once and cached under {worker.features_root}"
    store = FeatureStore(worker.features_root, key)
    return f"{key.kind:<9} each clip is {key.made} once and cached in {store.folder} ({len(store)} are there)"


def _explain_cache(forecast: Forecast) -> str:
    """Says why features or pixels are cached or not, and what features save."""
    decision, share = forecast.cache, forecast.saved_share
    would = "features save" if decision.kind == "features" else "features would save"
    saved = f"; {would} {share:.0%} of the FLOPs" if share is not None and share > 0 else ""
    return f" ({decision.why}{saved})"


def describe_forecast(forecast: Forecast) -> str:
    """Writes a forecast."""
    plan, prepared = forecast.plan, forecast.prepared
    values = summarize_forecast(forecast)
    about = "about " if forecast.is_estimated else ""
    tokens = [
        f"          {name:<9}{'  '.join(f'{count:>6}' for count in counts.values())}"
        for name, counts in values["tokens_per_row"].items()
    ]
    batches, parameters = values["micro_batches_per_epoch"], values["parameters"]
    lines = [
        *describe_plan(plan, prepared, about=about, why_cached=_explain_cache(forecast)).splitlines(),
        *(f"note      {note}" for note in forecast.notes),
        f"clips     {forecast.num_clips_read} of {forecast.num_clips} decoded for these numbers; "
        f"rows per clip {_spread(values['rows_per_clip'])}",
        f"tokens    {about:<9}{'  '.join(f'{name:>6}' for name in values['tokens_per_row']['row'])}",
        *tokens,
        f"batches   {about}{batches['count']} micro-batches per epoch over all ranks, at most {batches['largest_tokens']} tokens "
        f"in one; {batches['physical_tokens']} tokens are computed for {batches['logical_tokens']} of the rows apart",
        f"weights   {_describe_weights(**parameters)}",
        f"memory    by the model, per rank: {_describe_memory(forecast, about=about)}",
        f"FLOPs     {about}{_describe_flops(values['flops_per_epoch'])}",
        f"time      by the model: {_describe_time(forecast, about=about)}",
    ]
    if forecast.cache.kind is not None:
        size = f"{forecast.cache.num_bytes / GIGA:.3g} GB for {forecast.num_frames} frames"
        lines.append(f"disk      the {forecast.cache.kind} take {size}")
    lines += _describe_machines(forecast)
    lines += ["", "with these variables beside the shell's own"]
    lines += [f"  {name}={shlex.quote(value)}" for name, value in plan.launch.environment.items()]
    return "\n".join(lines)


def _describe_machines(forecast: Forecast) -> list[str]:
    """Says what every machine executes, and what to type there when there are several."""
    recipe, loaded = forecast.job.recipe, forecast.job.loaded
    lines = []
    for node_rank in range(recipe.parallel.num_nodes):
        command = worker_command(
            recipe,
            num_per_node=forecast.ranks.num_per_node,
            node_rank=node_rank,
            plan_file=forecast.job.run.plan_file,
        )
        if recipe.parallel.num_nodes == 1:
            return ["", "executes", f"  {shlex.join(command)}"]
        kept = [word for word in loaded.overrides if not word.startswith("parallel.node_rank=")]
        typed = ["cvft", "train", str(loaded.path), *kept, f"parallel.node_rank={node_rank}"]
        lines += ["", f"machine {node_rank}", f"  type      {shlex.join(typed)}", f"  executes  {shlex.join(command)}"]
    return lines


def _describe_flops(flops: Mapping[str, int] | None) -> str:
    if flops is None:
        return "not modelled for this family"
    parts = ", ".join(f"{key} {value:.2g}" for key, value in flops.items() if key != "total" and value)
    return f"{flops['total']:.3g} per epoch: {parts}"


def summarize_forecast(forecast: Forecast) -> dict[str, Any]:
    """Returns the numbers of a forecast, for programs."""
    plan, rows = forecast.plan, forecast.prepared.row_facts
    shapes = [*rows.train, *rows.val]
    lengths = {
        "prefix": [shape.num_prefix_tokens for shape in shapes],
        "question": [shape.num_question_tokens - shape.num_label_tokens for shape in shapes],
        "answer": [shape.num_label_tokens for shape in shapes],
        "row": [shape.num_tokens for shape in shapes],
    }
    per_clip = Counter(clip for shape in rows.train for clip in set(shape.clips))
    flops, memory, epoch_s = forecast.flops, forecast.memory, forecast.epoch_s
    num_epochs = plan.worker.num_steps / plan.worker.steps_per_epoch
    parts = ("tower", "projector", "language", "attention", "output_layer", "adapter")
    memory_parts = (
        "weights",
        "adapter",
        "gradient",
        "optimizer",
        "communication",
        "context",
        "saved",
        "vision",
        "logits",
    )
    return {
        "rows": {"train": len(rows.train), "val": len(rows.val)},
        "rows_per_epoch": rows.num_per_epoch,
        "mix": [
            {"file": share.name, "rows": share.num_rows, "weight": share.weight, "per_epoch": share.num_per_epoch}
            for share in rows.mix
        ],
        "quarantined": {
            "rows": len(forecast.prepared.quarantined),
            "examples": _quarantined_examples(forecast.prepared),
        },
        "clips": {"all": forecast.num_clips, "decoded": forecast.num_clips_read},
        "rows_per_clip": sorted(per_clip.values()),
        "tokens_per_row": {name: _percentiles(values) for name, values in lengths.items()},
        "batch": {
            "rows_per_step": plan.worker.limits.global_batch_rows,
            "max_rows_per_group": plan.worker.limits.max_rows_per_group,
            "ranks": forecast.ranks.num,
        },
        "steps": {"all": plan.worker.num_steps, "per_epoch": plan.worker.steps_per_epoch},
        "checkpoints": count_saves(plan),
        "val_passes": count_measures(plan),
        "micro_batches_per_epoch": {
            "count": len(forecast.batches),
            "largest_tokens": max(batch.num_tokens for batch in forecast.batches),
            "physical_tokens": sum(batch.num_tokens for batch in forecast.batches),
            "logical_tokens": sum(
                rows.train[number].num_tokens
                for number in rows_of_epoch(len(rows.train), rows.mix, seed=plan.swift["data_seed"], epoch=0)
            ),
        },
        "is_estimated": forecast.is_estimated,
        "parameters": {
            "total": forecast.num_parameters,
            "trained": forecast.num_trained,
        },
        "recompute": plan.swift["gradient_checkpointing"],
        "memory_bytes": None
        if memory is None
        else {
            **{part: getattr(memory, part) for part in (*memory_parts, "layer", "host")},
            "peak": memory.peak,
            "device": forecast.memory_bytes,
        },
        "flops_per_epoch": None
        if flops is None
        else {**{part: getattr(flops, part) for part in parts}, "total": flops.total},
        "gpu": forecast.gpu.name if forecast.gpu else None,
        "seconds": {
            "epoch": epoch_s,
            "training": None if epoch_s is None else epoch_s * num_epochs,
            "features": forecast.build_s,
        },
        "features": None
        if plan.worker.features is None
        else {"bytes": forecast.cache.num_bytes, "flops": forecast.build.total if forecast.build else None},
        "pixels": None if plan.worker.pixels is None else {"bytes": forecast.cache.num_bytes},
        "why_features": forecast.cache.why,
        "command": list(plan.launch.command),
        "environment": dict(plan.launch.environment),
        "notes": [*forecast.prepared.notes, *note_plan(plan), *forecast.notes],
        "refused": [f"{item.where}: got {item.got}, need {item.need}" for item in forecast.refused],
    }


def forecast_json(forecast: Forecast) -> str:
    """Returns a forecast as JSON."""
    return json.dumps(summarize_forecast(forecast), indent=2)


def _percentiles(values: Sequence[int]) -> dict[str, int]:
    ordered = sorted(values)
    names = {0: "min", 100: "max"}
    return {names.get(p, f"p{p}"): ordered[(len(ordered) - 1) * p // 100] for p in PERCENTILES}


def _spread(values: Sequence[int]) -> str:
    return f"{values[0]} to {values[-1]}, mean {sum(values) / len(values):.1f}" if values else "none"


def _describe_memory(forecast: Forecast, *, about: str) -> str:
    memory = forecast.memory
    if memory is None:
        return "not modelled for this family"
    parts = {
        "weights": memory.weights,
        "adapter": memory.adapter + memory.gradient + memory.optimizer + memory.communication,
        "activations": memory.saved + memory.layer,
        "logits": memory.logits,
        "tower at work": memory.vision,
        "CUDA": memory.context,
    }
    shown = ", ".join(f"{name} {num_bytes / GIGA:.2f}" for name, num_bytes in parts.items() if num_bytes >= GIGA / 1000)
    known = f" of {forecast.memory_bytes / GIGA:.1f}" if forecast.memory_bytes else ""
    return f"{about}{memory.peak / GIGA:.2f}{known} GB at the peak ({shown})"


def _describe_time(forecast: Forecast, *, about: str) -> str:
    epoch_s = forecast.epoch_s
    if epoch_s is None or forecast.gpu is None:
        return "name a GPU with --gpu, such as --gpu A100-40GB"
    num_epochs = forecast.plan.worker.num_steps / forecast.plan.worker.steps_per_epoch
    num_rows = forecast.prepared.row_facts.num_per_epoch
    built = f", after {_duration(forecast.build_s)} of encoding clips" if forecast.build_s else ""
    return (
        f"{about}{_duration(epoch_s * num_epochs)} on {forecast.ranks.num} x {forecast.gpu.name}, "
        f"{num_rows / epoch_s:.1f} rows per second{built}; val loss not counted"
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{seconds:.2g} s"
