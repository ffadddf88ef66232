"""What one run of the demo writes, with paths and versions masked, and how it is compared with `tests/golden/demo.json`.

`python -m tests.demo_golden RUN` writes the golden from a finished `cvft run recipes/tiny_cpu.yaml name=demo`. Plan, manifest and
answers are the same on every machine; losses and adapter bits are those of one kind of processor, which the golden names.
"""

import hashlib
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "tests" / "golden" / "demo.json"
FIRST_LOSSES = 3
"""Logged losses that other processors share to `RELATIVE`; later ones drift apart with the rounding of sums."""
RELATIVE = 1e-4
RENAMED = {"families": "categories"}
"""Keys of the golden's metrics that carry another name today. Their numbers are those of the recorded run."""
UNSAID = ("column `family` (704 rows) is kept but not trained on",)
"""Notes of the golden's manifest that no run writes today: that column is the demo's `category` now, and is used."""
WORKER = "cvft.engine.worker"
"""What the golden calls the worker's module."""
LOGGED = ("loss", "eval_loss", "token_acc", "eval_token_acc", "learning_rate", "grad_norm")


def read_run(run: Path) -> dict[str, Any]:
    """Collects plan, manifest, losses, adapter hash and metrics of a finished run."""
    plan, manifest = (json.loads((run / name).read_text()) for name in ("plan.json", "manifest.json"))
    plan = flatten_plan(plan)
    manifest["packages"] = sorted(manifest["packages"])
    assert set(manifest.pop("sources")) == {"data.train", "data.val"}  # what tells the files of rows: not recorded then
    manifest["contract"]["decoder_version"] = plan["features"]["decoder_version"] = "VERSION"
    assert manifest.pop("start") is None  # the adapter that it started from: no run could then
    for key in ("cvft", "git_commit", "python", "machine", "recipe_fingerprint"):
        manifest[key] = "MASKED"
    for split in ("train", "val"):
        manifest["rows"][f"{split}_sha256"] = hash_of_rows(run, split, stated=manifest["rows"][f"{split}_sha256"])
    plan["command"][0] = "PYTHON"
    log = [json.loads(line) for line in (run / "train" / "logging.jsonl").read_text().splitlines()]
    metrics = {which: json.loads((run / "eval" / which / "metrics.json").read_text()) for which in ("base", "merged")}
    adapter = run / "adapter" / "adapter_model.safetensors"
    return {
        "processor": processor(),
        "plan": mask(plan, run),
        "manifest": mask(manifest, run),
        "losses": [{key: line[key] for key in LOGGED if key in line} for line in log],
        "adapter_sha256": hashlib.sha256(adapter.read_bytes()).hexdigest(),
        "metrics": {which: values["metrics"] for which, values in metrics.items()},
    }


def flatten_plan(plan: dict[str, Any]) -> dict[str, Any]:
    """Today's plan of three parts in the flat words of the golden; a key that is in neither table must be equal."""
    worker = dict(plan["worker"])
    how, loading = worker.pop("preprocessing"), worker.pop("loading")
    decode = how["decode"]
    assert worker.pop("family") == "cogvlm2_video"
    assert worker.pop("max_skipped_steps") == 0
    chosen = [worker.pop(key) for key in ("select_by", "early_stop_evals", "asked_checkpoint", "answers")]
    assert chosen == ["eval_loss", None, None, None]
    assert loading["dtype"] == {"float32": "fp32", "bfloat16": "bf16"}[plan["swift"]["torch_dtype"]]
    assert loading["attention"] == plan["swift"]["attn_impl"]
    assert loading["with_tower"] == (worker["features"] is None)
    if worker["features"] is not None:
        worker["features"] |= worker["features"].pop("fields")
    return {
        **worker,
        "feeding": {
            "template": how["template"],
            "sampling": decode["sampling"]["strategy"],
            "max_frames": decode["sampling"]["max_frames"],
            "max_tokens": how["max_tokens"],
        },
        "decoder": decode["decoder"],
        "decode_timeout_s": decode["timeout_s"],
        "decode_memory_gib": decode["memory_gib"],
        "rope_precision": how["fields"]["rope_precision"],
        "quantize": loading["quantize"],
        "embeddings_on_cpu": loading["embeddings_on_cpu"],
        "runs_tower_always": loading["runs_tower_always"],
        "swift_arguments": plan["swift"],
        "command": [WORKER if word == "cvft.train.worker" else word for word in plan["launch"]["command"]],
        "environment": plan["launch"]["environment"],
    }


def hash_of_rows(run: Path, split: str, *, stated: str) -> str:
    """The hash of a run's rows with the folders of this machine masked: they hold the absolute path of every clip."""
    data = (run / "data" / f"{split}.jsonl").read_bytes()
    assert hashlib.sha256(data).hexdigest() == stated
    return hashlib.sha256(mask(data.decode(), run).encode()).hexdigest()


def read_golden() -> dict[str, Any]:
    """The recorded run in today's words."""
    golden: dict[str, Any] = json.loads(GOLDEN.read_text())
    golden["manifest"]["notes"] = [note for note in golden["manifest"]["notes"] if note not in UNSAID]
    for metrics in golden["metrics"].values():
        for old, new in RENAMED.items():
            if old in metrics:
                metrics[new] = metrics.pop(old)
    return golden


def processor() -> str:
    """Names the processor; one that is told to leave out its vector instructions is another one."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    told = os.environ.get("ATEN_CPU_CAPABILITY")
    return name if told is None else f"{name} as {told}"


def trim(value: Any, *, like: Any) -> Any:
    """Leaves out what the recorded run did not measure yet; what it measured has to be there."""
    if isinstance(value, dict) and isinstance(like, dict):
        return {key: trim(inner, like=like[key]) for key, inner in value.items() if key in like}
    return value


def mask(value: Any, run: Path) -> Any:
    """Replaces the folders of this machine by words."""
    if isinstance(value, dict):
        return {mask(key, run): mask(inner, run) for key, inner in value.items()}
    if isinstance(value, list):
        return [mask(inner, run) for inner in value]
    if isinstance(value, str):
        for folder, word in ((run, "RUN"), (run.parent, "RUNS"), (ROOT, "REPO")):
            value = value.replace(str(folder), word)
    return value


def assert_like_golden(run: Path) -> None:
    golden, got = read_golden(), json.loads(json.dumps(read_run(run)))
    got["metrics"] = trim(got["metrics"], like=golden["metrics"])
    assert got["plan"] == golden["plan"]
    assert got["manifest"] == golden["manifest"]
    if got["processor"] == golden["processor"]:
        assert {key: got[key] for key in golden} == golden
    for mine, theirs in zip(got["losses"][:FIRST_LOSSES], golden["losses"][:FIRST_LOSSES], strict=True):
        assert math.isclose(mine["loss"], theirs["loss"], rel_tol=RELATIVE)


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(read_run(Path(sys.argv[1]).absolute()), indent=1) + "\n")
