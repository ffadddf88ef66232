"""One run finds every fact once: counted in the parent process by a profiler hook."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.project import make_project

ROOT = Path(__file__).parent.parent

COUNTED = {
    "read_config_json": "weights/folder.py",
    "weights_fingerprint": "weights/folder.py",
    "tower_fingerprint": "weights/folder.py",
    "locate_model": "weights/hub.py",
    "read_shards": "weights/shards.py",
    "preprocessing": "families/cogvlm2_video/family.py",
    "load": "families/cogvlm2_video/runtime.py",
    "open_job": "plan/job.py",
    "decide_ranks": "plan/ranks.py",
    "read_gpus": "plan/machine.py",
}
"""Functions whose calls are counted, and where they are."""

CODE = """
import collections, json, os, sys, threading
counted = json.loads(sys.argv[1])
counts = collections.Counter()
def count(frame, event, argument):
    if event == "call":
        code = frame.f_code
        where = counted.get(code.co_name)
        if where is not None and code.co_filename.endswith(os.path.join("cvft", *where.split("/"))):
            counts[code.co_name] += 1
threading.setprofile(count)
sys.setprofile(count)
from cvft.cli.main import main
code = main(sys.argv[2:])
sys.setprofile(None)
print("COUNTS", json.dumps(counts))
sys.exit(code)
"""


def counts_of(*words: object) -> dict[str, int]:
    command = [sys.executable, "-c", CODE, json.dumps(COUNTED), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-4000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("COUNTS ")]
    return {name: 0 for name in COUNTED} | json.loads(line.removeprefix("COUNTS "))


def test_a_run_of_the_demo_finds_every_fact_once(tmp_path):
    counts = counts_of(
        "run",
        "recipes/tiny_cpu.yaml",
        "train.max_steps=2",
        f"output.root={tmp_path}",
        "name=counted",
        "eval.num_rows=8",
    )
    assert counts["read_config_json"] <= 4
    assert counts["locate_model"] == 1
    assert counts["weights_fingerprint"] == 1
    assert counts["tower_fingerprint"] == 1
    assert counts["preprocessing"] == 1
    assert counts["load"] <= 2  # verify and evaluate together: base with its adapter, and the merged model
    assert counts["open_job"] == counts["decide_ranks"] == counts["read_gpus"] == 1


@pytest.mark.long
def test_without_a_merge_base_and_adapter_are_one_load(tmp_path):
    recipe = make_project(tmp_path, train={"max_steps": 1}, export={"merge": False})
    counts = counts_of("run", recipe)
    assert counts["load"] == 1
    assert {path.name for path in (tmp_path / "runs" / "small" / "eval").iterdir()} == {
        "base",
        "adapter",
        "adapter-blind",
    }


def test_a_finished_run_loads_nothing(tmp_path):
    recipe = make_project(tmp_path, train={"max_steps": 1})
    counts_of("run", recipe)
    counts = counts_of("run", recipe)
    assert counts["load"] == 0
    assert counts["tower_fingerprint"] == 0
