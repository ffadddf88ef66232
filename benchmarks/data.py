"""Reading very many rows: how fast, with how much memory, how soon a catalog opens, and what a second process brings.

    python benchmarks/data.py [--rows 200000] [--clips 20000] [--repeats 3]

A synthetic list of rows over many clips is read and validated (as native rows and as `messages`), split, and grouped, each in a
process of its own on one core. Before a time counts, what came out is checked: as many rows as went in, no clip on both sides,
each row in one step. Times are CPU seconds, the best of the repeats: other programs on the machine take wall time, and caches.
Beside them stands what `json.loads` alone takes for the same lines in the same process: that ratio says more of the code than of
the machine.

Copies of the demo's clips are decoded with one process and with one per core, in turns. On a machine that is busy, the wall time
says how many cores were free, so the CPU time is given too: processes that take together what one takes alone do not stand in
each other's way. What starting them takes stands beside it (one clip for each process): of very many clips it is a small part.
As in every command, Python looks for cycles less often than by itself. The result goes to
`benchmarks/results/data--<device>.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from job import ROOT, write_result

from cvft.data.catalog import ClipCatalog
from cvft.data.check import inspect_clips
from cvft.data.groups import RowShape, make_steps
from cvft.data.rows import read_rows
from cvft.data.split import split_by_clip
from cvft.data.video.loader import DecodeSettings
from cvft.data.video.process import ClipInfo
from cvft.data.video.sample import Sampling
from cvft.imports import collect_less_often

HOW = DecodeSettings(Sampling())
WORDS = (
    "the",
    "man",
    "dog",
    "runs",
    "over",
    "green",
    "field",
    "then",
    "jumps",
    "into",
    "water",
    "people",
    "watch",
    "shore",
)

NUM_COPIES = 8
"""How often the clips of the demo are decoded."""

T = TypeVar("T")


def main() -> None:
    """Measures everything and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000, help="rows (%(default)s)")
    parser.add_argument("--clips", type=int, default=20_000, help="clips (%(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="how often each is measured (%(default)s)")
    parser.add_argument("--one", nargs=2, metavar=("FORMAT", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    collect_less_often()  # as every command and every worker does
    if options.one:
        print(json.dumps(read_one(Path(options.one[1]))))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_lists(folder, num_rows=options.rows, num_clips=options.clips)
        reading = {
            format: best([ask_process(format, folder / f"{format}.jsonl") for _ in range(options.repeats)])
            for format in ("native", "messages")
        }
        for format, values in reading.items():
            assert values["num_rows"] == options.rows, values
            print(format, json.dumps(values), flush=True)
        catalog = open_catalog(folder, num_clips=options.clips)
        print("catalog", json.dumps(catalog), flush=True)
        processes = compare_processes(folder, repeats=options.repeats)
        print("processes", json.dumps(processes), flush=True)
    region = "CPU seconds of one process, the best of the repeats; those of `processes` with all that they start"
    write_result(
        "data",
        timed_region=region,
        load_average=round(os.getloadavg()[0], 1),
        rows=options.rows,
        clips=options.clips,
        reading=reading,
        catalog=catalog,
        processes=processes,
    )


def make_lists(folder: Path, *, num_rows: int, num_clips: int) -> None:
    """Writes the same rows in two formats, about clips that are there and hold a few bytes."""
    (folder / "clips").mkdir()
    for number in range(num_clips):
        (folder / "clips" / f"{number:06d}.mp4").write_bytes(str(number).encode())
    chance = random.Random(0)

    def text(least: int, most: int) -> str:
        return " ".join(chance.choices(WORDS, k=chance.randint(least, most))).capitalize()

    with open(folder / "native.jsonl", "w") as native, open(folder / "messages.jsonl", "w") as messages:
        for number in range(num_rows):
            query, answer = f"{text(6, 14)}?", f"{text(1, 30)}."
            rest = {"videos": [f"clips/{number % num_clips:06d}.mp4"], "category": chance.choice(WORDS)}
            native.write(
                json.dumps({"id": f"q{number}", "query": query, "response": answer, "history": [], **rest}) + "\n"
            )
            said = [{"role": "user", "content": f"<video>{query}"}, {"role": "assistant", "content": answer}]
            messages.write(json.dumps({"messages": said, **rest}) + "\n")


def ask_process(format: str, file: Path) -> dict[str, Any]:
    """Reads a list in a process of its own, whose memory nobody else has used."""
    command = [sys.executable, __file__, "--one", format, str(file)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(result.stderr)
    values: dict[str, Any] = json.loads(result.stdout)
    return values


def read_one(file: Path) -> dict[str, Any]:
    """Reads, splits and groups a list, and checks what came out."""
    rows, read_s = timed(read_rows, file, format="auto")
    contents = {row.videos[0]: row.videos[0].name for row in rows if isinstance(row.videos[0], Path)}
    (train, val), split_s = timed(split_by_clip, rows, val_fraction=0.1, seed=0, contents=contents)
    assert len(train) + len(val) == len(rows)
    assert not {row.videos[0] for row in train} & {row.videos[0] for row in val}
    numbers = {clip: number for number, clip in enumerate(contents)}
    shapes = [
        RowShape((numbers[row.videos[0]],), 10, 20, 5, (8,), (8,)) for row in train if isinstance(row.videos[0], Path)
    ]
    steps, group_s = timed(lambda: list(make_steps(shapes, global_batch_rows=64, max_rows_per_group=4, seed=0)))
    assert sorted(row for step in steps for group in step for row in group) == list(range(len(train)))
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    num_rows = len(rows)
    lines = file.read_bytes().splitlines()
    _, json_s = timed(lambda: sum(len(json.loads(line)) for line in lines))
    return {
        "num_rows": num_rows,
        "read_s": read_s,
        "split_s": split_s,
        "group_s": group_s,
        "json_loads_s": json_s,
        "peak_mib": round(peak_mib),
    }


def best(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The shortest time of each stage, the highest memory, and what follows from them."""
    values = {key: (max if key in ("peak_mib", "num_rows") else min)(run[key] for run in runs) for key in runs[0]}
    whole_s = values["read_s"] + values["split_s"] + values["group_s"]
    return {
        **values,
        "rows_per_s": round(values["num_rows"] / values["read_s"]),
        "rows_per_s_to_the_groups": round(values["num_rows"] / whole_s),
        "times_json_loads": round(values["read_s"] / values["json_loads_s"], 2),
    }


def open_catalog(folder: Path, *, num_clips: int) -> dict[str, Any]:
    """Records as many clips, and asks for all of them in a catalog that is opened anew."""
    clips = sorted((folder / "clips").iterdir())
    seconds = tuple(float(second) for second in range(24))
    with ClipCatalog(folder / "catalog", HOW) as catalog:
        catalog.find(clips)
        for number, clip in enumerate(clips):
            sha256 = f"{number:064x}"
            catalog.record(clip, ClipInfo(24, 224, 224, seconds, 720, 30.0, 24.0, "pyav", sha256, (), (), ()))
    catalog, open_s = timed(ClipCatalog, folder / "catalog", HOW)
    with catalog:
        found, first_s = timed(catalog.find, clips[:1])
        assert list(found) == clips[:1]
        found, find_s = timed(catalog.find, clips)
    assert list(found) == clips
    assert len({info.sha256 for info in found.values()}) == num_clips
    return {"open_s": round(open_s + first_s, 3), "find_all_s": find_s}


def compare_processes(folder: Path, *, repeats: int) -> dict[str, Any]:
    """Decodes the demo's clips with one process and with one per core, in turns."""
    demo = sorted((ROOT / "datasets" / "tiny_shapes" / "clips").glob("*.mp4"))
    # a clip takes milliseconds, and starting a process half a second
    clips = [folder / f"{number}-{clip.name}" for number in range(NUM_COPIES) for clip in demo]
    for clip in clips:
        clip.write_bytes((demo[0].parent / clip.name.partition("-")[2]).read_bytes())
    cores = len(os.sched_getaffinity(0))
    starts: dict[int, list[float]] = {1: [], cores: []}
    walls: dict[int, list[float]] = {1: [], cores: []}
    works: dict[int, list[float]] = {1: [], cores: []}
    found = []
    for _ in range(repeats):
        for num in (1, cores):
            begin = time.perf_counter()
            inspect_clips(clips[:num], sampling=HOW.sampling, num_workers=num)
            starts[num].append(time.perf_counter() - begin)
            begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
            found.append(inspect_clips(clips, sampling=HOW.sampling, num_workers=num).found)
            walls[num].append(time.perf_counter() - begin)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            works[num].append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert all(each == found[0] and list(each) == clips for each in found)
    one, many = min(works[1]), min(works[cores])
    wall, start = ({num: min(times[num]) for num in (1, cores)} for times in (walls, starts))
    return {
        "num_clips": len(clips),
        "cores": cores,
        "cpu_s": {"1": round(one, 2), str(cores): round(many, 2)},
        "wall_s": {"1": round(wall[1], 2), str(cores): round(wall[cores], 2)},
        "wall_s_of_one_clip_each": {"1": round(start[1], 2), str(cores): round(start[cores], 2)},
        "share_of_ideal_by_cpu": round(one / many, 2),
        "share_of_ideal_by_wall": round(wall[1] / wall[cores] / cores, 2),
        "share_of_ideal_by_wall_once_started": round((wall[1] - start[1]) / (wall[cores] - start[cores]) / cores, 2),
    }


def timed(do: Callable[..., T], *given: Any, **named: Any) -> tuple[T, float]:
    """Does something, and returns its result and its CPU seconds."""
    begin = time.process_time()
    result = do(*given, **named)
    return result, round(time.process_time() - begin, 3)


if __name__ == "__main__":
    main()
