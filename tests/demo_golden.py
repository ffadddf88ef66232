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
LOGGED = ("loss", "eval_loss", "token_acc", "eval_token_acc", "learning_rate", "grad_norm")


def read_run(run: Path) -> dict[str, Any]:
    """Collects plan, manifest, losses, adapter hash and metrics of a finished run."""
    plan, manifest = (json.loads((run / name).read_text()) for name in ("plan.json", "manifest.json"))
    manifest["packages"] = sorted(manifest["packages"])
    features = plan["worker"]["features"]
    manifest["contract"]["decoder_version"] = features["fields"]["decoder_version"] = "VERSION"
    for key in ("cvft", "git_commit", "python", "machine", "recipe_fingerprint"):
        assert key in manifest
        manifest[key] = "MASKED"
    for file in manifest["sources"].values():
        file["mtime_ns"] = "MASKED"
    for split in ("train", "val"):
        manifest["rows"][f"{split}_sha256"] = hash_of_rows(run, split, stated=manifest["rows"][f"{split}_sha256"])
    plan["launch"]["command"][0] = "PYTHON"
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


def hash_of_rows(run: Path, split: str, *, stated: str) -> str:
    """The hash of a run's rows with the folders of this machine masked: they hold the absolute path of every clip."""
    data = (run / "data" / f"{split}.jsonl").read_bytes()
    assert hashlib.sha256(data).hexdigest() == stated
    return hashlib.sha256(mask(data.decode(), run).encode()).hexdigest()


def processor() -> str:
    """Names the processor by all that tells it from others; one that leaves out its vector instructions is another one."""
    facts = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines())
    stated = {key.strip(): value.strip() for key, value in facts.items()}
    name = " ".join(f"{key} {stated.get(key, 'unknown')}" for key in ("model name", "cpu family", "model", "stepping"))
    told = os.environ.get("ATEN_CPU_CAPABILITY")
    return name if told is None else f"{name} as {told}"


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
    golden, got = json.loads(GOLDEN.read_text()), json.loads(json.dumps(read_run(run)))
    assert got["plan"] == golden["plan"]
    assert got["manifest"] == golden["manifest"]
    if got["processor"] == golden["processor"]:
        assert got == golden
    for mine, theirs in zip(got["losses"][:FIRST_LOSSES], golden["losses"][:FIRST_LOSSES], strict=True):
        assert math.isclose(mine["loss"], theirs["loss"], rel_tol=RELATIVE)


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(read_run(Path(sys.argv[1]).absolute()), indent=1) + "\n")
