"""The manifest: what a run was made of, so that its numbers can be asked about later."""

from __future__ import annotations

import json
import platform
from typing import Any

from cvft import __version__
from cvft.data.fetch.urls import show_url
from cvft.data.video.spec import sort_key, to_text
from cvft.files import hash_file, write_whole
from cvft.plan.job import Job
from cvft.plan.plan import Plan
from cvft.plan.prepare import PreparedRows
from cvft.plan.start import Start
from cvft.versions import find_commit, find_version
from cvft.weights.folder import ADAPTER_WEIGHTS_FILE

PACKAGES = ("torch", "transformers", "peft", "ms-swift", "accelerate", "deepspeed", "datasets", "av", "decord", "numpy")


def write_manifest(job: Job, *, prepared: PreparedRows, plan: Plan, start: Start | None) -> None:
    """Writes versions, device, hashes of rows and clips, and seeds.

    Args:
        job: The job.
        prepared: Its rows and clips.
        plan: What its worker does.
        start: The adapter that it starts from, or None.
    """
    folder, source, recipe = job.run, job.model.source, job.recipe
    rows = (*prepared.train_rows, *prepared.val_rows)
    urls = {clip: url for row in rows for clip, url in row.clips_by_url.items()}
    values: dict[str, Any] = {
        "cvft": __version__,
        "git_commit": find_commit(),
        "python": platform.python_version(),
        "packages": {name: find_version(name) for name in PACKAGES},
        "machine": platform.machine(),
        "device": plan.worker.device,
        "num_ranks": plan.worker.num_ranks,
        "seed": recipe.seed,
        "recipe_fingerprint": job.loaded.fingerprint,
        "base": {
            "path": recipe.model.path,
            "hub": source.hub,
            "id": source.model_id,
            "commit": source.commit,
        },
        "contract": job.contract.to_dict(),
        "start": None
        if start is None
        else {"path": str(recipe.train.resume_from), "adapter_sha256": hash_file(folder.start / ADAPTER_WEIGHTS_FILE)},
        "rows": {
            "num_train": len(prepared.train_rows),
            "num_val": len(prepared.val_rows),
            "num_quarantined": len(prepared.quarantined),
            "train_sha256": hash_file(folder.train_rows),
            "val_sha256": hash_file(folder.val_rows) if prepared.val_rows else None,
        },
        "sources": {key: facts.to_dict() for key, facts in prepared.sources.items()},
        "clips": {
            to_text(clip): {
                "sha256": facts.sha256,
                "num_frames": facts.num_frames,
                "duration_s": facts.duration_s,
                **({"url": show_url(urls[clip])} if clip in urls else {}),
            }
            for clip, facts in sorted(prepared.clips.items(), key=lambda item: sort_key(item[0]))
        },
        "notes": list(prepared.notes),
    }
    write_whole(folder.manifest_file, json.dumps(values, indent=2) + "\n")
