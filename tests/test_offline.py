"""No network: the whole job in processes whose sockets are watched, and cut."""

import json
import os
from pathlib import Path

from tests.project import cvft_ok, make_project

WATCHER = """
import json, os, socket, sys
LOG = os.environ["CVFT_TEST_NETWORK_LOG"]
def note(**values):
    with open(LOG, "a") as file:
        file.write(json.dumps({"pid": os.getpid(), **values}) + "\\n")
def watch(event, args):
    if event == "socket.getaddrinfo" or (event == "socket.connect" and args[0].family in (socket.AF_INET, socket.AF_INET6)):
        note(event=event, args=repr(args[1:] if event == "socket.connect" else args))
        raise OSError("the network is cut")
sys.addaudithook(watch)
note(event="started")
"""
"""A `sitecustomize` module: Python runs it at the start of every process that inherits PYTHONPATH."""


def test_the_whole_job_calls_nobody(tmp_path):
    (tmp_path / "watch").mkdir()
    (tmp_path / "watch" / "sitecustomize.py").write_text(WATCHER)
    log = tmp_path / "network.jsonl"
    recipe = make_project(tmp_path / "project", train={"max_steps": 1})
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "watch"), "CVFT_TEST_NETWORK_LOG": str(log)}
    # what the shell of a test run may set must not be what keeps the job offline
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
        environment.pop(name, None)
    cvft_ok("run", recipe, env=environment, cwd=Path(__file__).parent.parent)
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert len({event["pid"] for event in events}) >= 3  # command line, worker, decoder: all were watched
    assert [event for event in events if event["event"] != "started"] == []
